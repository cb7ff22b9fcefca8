// Opening, flushing and closing.
#include "backends/block/qcow2/qcow2_image.h"

#include <algorithm>
#include <cerrno>

#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/operation.h"
#include "backends/block/qcow2/snapshots.h"
#include "base/log.h"

namespace doppel::backends::qcow2 {

namespace {

constexpr std::uint64_t l2_memory = 32 << 20;
constexpr std::size_t many_freed = 4096;

}  // namespace

base::Result<Header> Qcow2Image::read_header(ByteFile& file)
{
    const std::uint64_t size = file.size();
    std::vector<std::byte> bytes(std::min<std::uint64_t>(size, 512));
    const auto read = [&]() -> base::Result<void> {
        const int error = file.read_at(0, bytes);
        if (error == 0) return {};
        return base::errno_error(base::ErrorKind::io, "Cannot read the qcow2 header", error);
    };
    TRY(read());
    bytes.resize(header_bytes(bytes, size));
    TRY(read());
    return parse_header(bytes, size);
}

base::Result<std::unique_ptr<Qcow2Image>> Qcow2Image::open(std::unique_ptr<ByteFile> file,
                                                           Options options)
{
    std::unique_ptr<Qcow2Image> image{new Qcow2Image{std::move(file)}};
    TRY(image->load(std::move(options)));
    return image;
}

base::Result<void> Qcow2Image::load(Options options)
{
    header_ = TRY(read_header(*file_));
    read_only_ = options.read_only || file_->properties().read_only;
    backing_ = std::move(options.backing);
    if (!read_only_) TRY(prepare_for_writing());
    if (options.check) {
        const CheckReport report = TRY(check_image(*file_, header_, check_when_opening));
        if (report.corruptions != 0) {
            return base::io_error("The qcow2 image is damaged: " + report.messages.front() +
                                  "; see 'doppel image check'");
        }
    }
    size_ = header_.size / 512 * 512;
    if (options.snapshot.empty()) {
        l1_ = TRY(read_l1(*file_, header_, header_.l1_offset, header_.l1_size));
    } else {
        ASSERT(read_only_);
        const auto snapshots = TRY(read_snapshots(*file_, header_));
        // An id that is another one's name: ids first, as qemu-img does.
        auto found = std::find_if(snapshots.begin(), snapshots.end(), [&](const Snapshot& one) {
            return one.id == options.snapshot;
        });
        if (found == snapshots.end()) {
            found = std::find_if(snapshots.begin(), snapshots.end(), [&](const Snapshot& one) {
                return one.name == options.snapshot;
            });
        }
        if (found == snapshots.end()) {
            return base::usage_error("There is no snapshot '" + options.snapshot + "' in it");
        }
        l1_ = TRY(read_l1(*file_, header_, found->l1_offset, found->l1_size));
        size_ = found->disk_size / 512 * 512;
    }
    l2_ = std::make_unique<TableCache>(*file_, header_.cluster_size(), l2_memory);
    refcounts_ = TRY(Refcounts::load(*file_, header_));
    return {};
}

base::Result<void> Qcow2Image::prepare_for_writing()
{
    if ((header_.incompatible & incompatible_corrupt) != 0) {
        return base::io_error("The qcow2 image is marked as corrupt; repair it with 'doppel image "
                              "check --repair all', or open it with readonly");
    }
    if ((header_.incompatible & incompatible_dirty) != 0) {
        // Somebody else's lazy refcounts; ours are never late.
        TRY(repair_image(*file_, header_, Repair::all));
    }
    // What others keep up to date beside the disk (bitmaps) we do not.
    if (header_.autoclear != 0) {
        std::byte none[8]{};
        int error = file_->write_at(88, none);
        if (error == 0) error = file_->flush();
        if (error != 0) {
            return base::errno_error(base::ErrorKind::io, "Cannot write the qcow2 header", error);
        }
        header_.autoclear = 0;
    }
    return {};
}

Qcow2Image::~Qcow2Image()
{
    if (refcounts_ && close() != 0) {
        spdlog::error("'{}': what was not flushed is lost", file_->name());
    }
}

int Qcow2Image::close()
{
    if (read_only_) return 0;
    // The first writes everything that is referred to, the second what is free by then.
    int error = flush_metadata();
    if (error == 0) error = flush_metadata();
    if (error == 0 && file_->properties().can_grow && refcounts_->used_end() < file_->size()) {
        error = file_->resize(refcounts_->used_end());
    }
    read_only_ = true;
    return error;
}

std::uint32_t Qcow2Image::discard_granularity() const
{
    return static_cast<std::uint32_t>(header_.cluster_size());
}

std::uint32_t Qcow2Image::optimal_io_size() const
{
    return static_cast<std::uint32_t>(header_.cluster_size());
}

int Qcow2Image::flush()
{
    return read_only_ ? 0 : flush_metadata();
}

int Qcow2Image::flush_if_much()
{
    {
        const std::lock_guard lock{metadata_};
        if (freed_.size() < many_freed && !l2_->many_dirty() && !refcounts_->many_dirty()) return 0;
    }
    return flush_metadata();
}

int Qcow2Image::flush_metadata()
{
    const std::lock_guard only_one{flushing_};
    std::vector<TableCache::Copy> tables;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> l1;
    std::vector<Freed> freed;
    {
        const std::lock_guard lock{metadata_};
        if (const int error = refcounts_->write_out(); error != 0) return error;
        tables = l2_->take_dirty();
        for (const std::uint64_t index : dirty_l1_) l1.emplace_back(index, l1_[index]);
        dirty_l1_.clear();
        freed.swap(freed_);
    }
    const auto write = [&]() -> int {
        if (const int error = file_->flush(); error != 0) return error;
        for (const auto& copy : tables) {
            const int error = file_->write_at(copy.table->host, copy.bytes);
            if (error != 0) return error;
        }
        if (!tables.empty()) {
            if (const int error = file_->flush(); error != 0) return error;
        }
        for (const auto& [index, value] : l1) {
            std::byte entry[8];
            store_be(entry, value);
            const int error = file_->write_at(header_.l1_offset + index * 8, entry);
            if (error != 0) return error;
        }
        return l1.empty() ? 0 : file_->flush();
    };
    const int error = write();
    const std::lock_guard lock{metadata_};
    if (error != 0) {
        l2_->give_back(tables);
        for (const auto& [index, value] : l1) dirty_l1_.insert(index);
        freed_.insert(freed_.end(), freed.begin(), freed.end());
        return error;
    }
    reusable_.insert(reusable_.end(), freed.begin(), freed.end());
    reuse_freed();
    return 0;
}

// Nothing on disk refers to these any more. What a request under way may still read waits.
void Qcow2Image::reuse_freed()
{
    forget_ended();
    const std::uint64_t oldest = operations_.empty() ? UINT64_MAX : *operations_.begin();
    std::uint64_t hole = 0;
    std::uint64_t hole_end = 0;
    std::vector<std::uint64_t> emptied;
    const auto note_leak = [&] {
        if (leaks_++ == 0) spdlog::warn("'{}' has leaked clusters", file_->name());
    };
    const auto punch = [&] {
        // The hole first: once it counts as free, somebody may store something there.
        if (hole_end > hole) static_cast<void>(file_->discard(hole, hole_end - hole));
        for (const std::uint64_t cluster : emptied) {
            if (refcounts_->remove(cluster) != 0) note_leak();
        }
        emptied.clear();
        hole = hole_end = 0;
    };
    bool any = false;
    while (!reusable_.empty() && reusable_.front().epoch < oldest) {
        const Freed freed = reusable_.front();
        reusable_.pop_front();
        any = true;
        const std::uint64_t last = (freed.host + freed.length - 1) >> header_.cluster_bits;
        for (std::uint64_t c = freed.host >> header_.cluster_bits; c <= last; ++c) {
            std::uint64_t users = 0;
            if (refcounts_->get(c, users) != 0 || users != 1) {
                // Shared with a snapshot, or with other compressed clusters.
                if (users == 0 || refcounts_->remove(c) != 0) note_leak();
                continue;
            }
            const std::uint64_t host = c << header_.cluster_bits;
            if (std::find(emptied.begin(), emptied.end(), c) != emptied.end()) continue;
            if (host != hole_end || emptied.size() >= 1024) {
                punch();
                hole = host;
            }
            hole_end = host + header_.cluster_size();
            emptied.push_back(c);
        }
    }
    punch();
    if (any) ++reuse_count_;
}

}  // namespace doppel::backends::qcow2
