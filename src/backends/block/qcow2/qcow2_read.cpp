// Reading: from an offset of the disk to where its bytes are.
#include <algorithm>
#include <cerrno>

#include "backends/block/qcow2/compression.h"
#include "backends/block/qcow2/operation.h"
#include "backends/block/qcow2/qcow2_image.h"

namespace doppel::backends::qcow2 {

using Kind = L2Entry::Kind;

std::shared_ptr<Table> Qcow2Image::l2_for_read(std::uint64_t l1_index, int& error)
{
    error = 0;
    if (l1_index >= l1_.size()) {
        error = EIO;
        return nullptr;
    }
    const std::uint64_t host = l1_[l1_index] & entry_offset;
    return host == 0 ? nullptr : l2_->get(host, error);
}

int Qcow2Image::entry_at(const Table& table, std::uint64_t cluster, L2Entry& entry) const
{
    const std::uint64_t index = cluster % header_.l2_entries();
    return decode_l2(header_, load_be<std::uint64_t>(&table.bytes[index * 8]), entry) ? 0 : EIO;
}

// What is at `offset`, and for how many bytes, up to `most`, the same goes on.
int Qcow2Image::lookup(std::uint64_t offset, std::uint64_t most, Run& run)
{
    const std::uint64_t l1_index = offset / header_.l2_covers();
    const std::uint64_t cluster_size = header_.cluster_size();
    most = std::min(most, (l1_index + 1) * header_.l2_covers() - offset);
    int error = 0;
    const auto table = l2_for_read(l1_index, error);
    if (!table) {
        run = {{}, most};
        return error;
    }
    const std::uint64_t first = offset >> header_.cluster_bits;
    error = entry_at(*table, first, run.first);
    if (error != 0) return error;
    run.length = cluster_size - offset % cluster_size;
    for (std::uint64_t i = 1; run.length < most && run.first.kind != Kind::compressed; ++i) {
        L2Entry next;
        if (entry_at(*table, first + i, next) != 0 || next.kind != run.first.kind) break;
        if (next.kind == Kind::data && next.host != run.first.host + i * cluster_size) break;
        run.length += cluster_size;
    }
    run.length = std::min(run.length, most);
    return 0;
}

int Qcow2Image::read(std::uint64_t offset, std::span<const iovec> buffers)
{
    const Operation operation{*this};
    return do_read(offset, buffers);
}

int Qcow2Image::do_read(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t length = total_length(buffers);
    for (std::uint64_t done = 0; done < length;) {
        Run run;
        {
            const std::lock_guard lock{metadata_};
            const int error = lookup(offset + done, length - done, run);
            if (error != 0) return error;
        }
        const auto part = slice(buffers, done, run.length);
        if (const int error = read_run(run, offset + done, part); error != 0) return error;
        done += run.length;
    }
    return 0;
}

int Qcow2Image::read_run(const Run& run, std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t inside = offset % header_.cluster_size();
    switch (run.first.kind) {
        case Kind::unallocated: return read_backing(offset, buffers);
        case Kind::zero: fill_zero(buffers); return 0;
        case Kind::data: return file_->read(run.first.host + inside, buffers);
        case Kind::compressed: return read_compressed(run.first, inside, buffers);
    }
    return EIO;
}

int Qcow2Image::read_backing(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t length = total_length(buffers);
    const std::uint64_t end = backing_ ? backing_->size() : 0;
    const std::uint64_t there = offset < end ? std::min(length, end - offset) : 0;
    if (there < length) fill_zero(slice(buffers, there, length - there));
    return there == 0 ? 0 : backing_->read(offset, slice(buffers, 0, there));
}

int Qcow2Image::read_compressed(const L2Entry& entry, std::uint64_t inside,
                                std::span<const iovec> buffers)
{
    const std::lock_guard lock{decompressed_mutex_};
    const std::uint64_t now = reuse_count_.load();
    if (decompressed_host_ != entry.host || decompressed_at_ != now) {
        const std::uint64_t end = file_->size();
        if (entry.host >= end) return EIO;
        // The last sector of the file may not be a whole one.
        std::vector<std::byte> bytes(std::min(entry.length, end - entry.host));
        decompressed_host_ = 0;
        decompressed_.resize(header_.cluster_size());
        if (const int error = file_->read_at(entry.host, bytes); error != 0) return error;
        if (!decompress(header_.compression, bytes, decompressed_)) return EIO;
        decompressed_host_ = entry.host;
        decompressed_at_ = now;
    }
    copy_out(buffers, std::span{decompressed_}.subspan(inside));
    return 0;
}

Extent Qcow2Image::extent(std::uint64_t offset, std::uint64_t most, int& error)
{
    const Operation operation{*this};
    Run run;
    {
        const std::lock_guard lock{metadata_};
        error = lookup(offset, most, run);
    }
    if (error != 0) return {most, false, true};
    switch (run.first.kind) {
        case Kind::zero: return {run.length, true, run.first.host != 0};
        case Kind::compressed: return {run.length, false, true};
        case Kind::data: {
            // Preallocated clusters may be holes of the file.
            const Extent below = file_->extent(
                run.first.host + offset % header_.cluster_size(), run.length);
            return {below.length, below.zero, true};
        }
        case Kind::unallocated: break;
    }
    const std::uint64_t end = backing_ ? backing_->size() : 0;
    if (offset >= end) return {run.length, true, false};
    Extent below = backing_->extent(offset, std::min(run.length, end - offset), error);
    below.allocated = false;
    return below;
}

// False also when it is not known.
bool Qcow2Image::reads_zero(std::uint64_t offset, std::uint64_t length)
{
    for (std::uint64_t done = 0; done < length;) {
        Run run;
        {
            const std::lock_guard lock{metadata_};
            if (lookup(offset + done, length - done, run) != 0) return false;
        }
        std::uint64_t known = run.length;
        if (run.first.kind == Kind::unallocated && backing_ &&
            offset + done < backing_->size()) {
            int error = 0;
            const std::uint64_t most = std::min(run.length, backing_->size() - offset - done);
            const Extent below = backing_->extent(offset + done, most, error);
            if (error != 0 || !below.zero) return false;
            known = below.length;
        } else if (run.first.kind != Kind::unallocated && run.first.kind != Kind::zero) {
            return false;
        }
        done += known;
    }
    return true;
}

}  // namespace doppel::backends::qcow2
