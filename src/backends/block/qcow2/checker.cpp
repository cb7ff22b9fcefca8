#include "backends/block/qcow2/checker.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/block/qcow2/snapshots.h"

namespace doppel::backends::qcow2 {

namespace {

constexpr std::uint64_t blocks_memory = 8 << 20;
constexpr std::size_t most_leaks_kept = 1 << 22;

base::Error unreadable(std::string_view what, int error)
{
    return base::errno_error(base::ErrorKind::io, "Cannot read " + std::string{what}, error);
}

}  // namespace

Checker::Checker(ByteFile& file, const Header& header, const CheckOptions& options)
    : file_(file),
      header_(header),
      options_(options),
      file_size_(file.size()),
      blocks_(file, header.cluster_size(), blocks_memory)
{
}

void Checker::complain(std::string text)
{
    ++report_.corruptions;
    if (report_.messages.size() < CheckReport::most_messages) {
        report_.messages.push_back(std::move(text));
    }
}

bool Checker::inside(std::uint64_t offset, std::uint64_t length, std::string_view what)
{
    if (offset <= file_size_ && length <= file_size_ - offset) return true;
    complain(fmt::format("{} at {:#x} is beyond the end of the file", what, offset));
    return false;
}

base::Result<void> Checker::refer(std::uint64_t offset, std::uint64_t length)
{
    if (length == 0) return {};
    const std::uint64_t last = (offset + length - 1) >> header_.cluster_bits;
    for (std::uint64_t c = offset >> header_.cluster_bits; c <= last; ++c) {
        if (!counts_.add(c)) {
            return base::io_error("The image is too large to be checked: its clusters are too many");
        }
    }
    report_.image_end = std::max(report_.image_end, (last + 1) << header_.cluster_bits);
    return {};
}

// True when the check is to be given up.
bool Checker::enough(std::uint64_t bytes)
{
    table_bytes_ += bytes;
    if (table_bytes_ > options_.most_bytes) report_.complete = false;
    return !report_.complete;
}

base::Result<void> Checker::walk(Structures structures)
{
    report_.total_clusters = header_.clusters_for(header_.size);
    TRY(refer(0, header_.cluster_size()));
    const auto l1 = TRY(read_l1(file_, header_, header_.l1_offset, header_.l1_size));
    TRY(refer(header_.l1_offset, std::uint64_t{header_.l1_size} * 8));
    if (structures == Structures::all) TRY(walk_refcounts());
    TRY(walk_l1(l1, header_.size, Table::active));
    return walk_snapshots();
}

base::Result<void> Checker::walk_refcounts()
{
    std::vector<std::byte> bytes(std::uint64_t{header_.refcount_table_clusters}
                                 << header_.cluster_bits);
    if (const int error = file_.read_at(header_.refcount_table_offset, bytes); error != 0) {
        return unreadable("the refcount table", error);
    }
    TRY(refer(header_.refcount_table_offset, bytes.size()));
    refcount_table_.resize(bytes.size() / 8);
    for (std::size_t i = 0; i < refcount_table_.size() && report_.complete; ++i) {
        const auto entry = load_be<std::uint64_t>(&bytes[i * 8]);
        if (entry == 0) continue;
        if (entry % header_.cluster_size() != 0 || entry >= max_offset) {
            complain(fmt::format("entry {} of the refcount table is {:#x}", i, entry));
            continue;
        }
        if (!inside(entry, header_.cluster_size(), "a refcount block")) continue;
        if (enough(header_.cluster_size())) return {};
        TRY(refer(entry, header_.cluster_size()));
        refcount_table_[i] = entry;
    }
    return {};
}

base::Result<void> Checker::walk_snapshots()
{
    if (header_.snapshots == 0) return {};
    std::uint64_t bytes = 0;
    const auto snapshots = TRY(read_snapshots(file_, header_, &bytes));
    TRY(refer(header_.snapshots_offset, bytes));
    for (const Snapshot& snapshot : snapshots) {
        if (enough(std::uint64_t{snapshot.l1_size} * 8)) return {};
        const auto l1 = TRY(read_l1(file_, header_, snapshot.l1_offset, snapshot.l1_size));
        TRY(refer(snapshot.l1_offset, std::uint64_t{snapshot.l1_size} * 8));
        TRY(walk_l1(l1, snapshot.disk_size, Table::snapshot));
    }
    return {};
}

base::Result<void> Checker::walk_l1(const std::vector<std::uint64_t>& l1, std::uint64_t disk_size,
                                    Table kind)
{
    for (std::size_t i = 0; i < l1.size() && report_.complete; ++i) {
        const std::uint64_t host = l1[i] & entry_offset;
        if (host == 0 || !inside(host, header_.cluster_size(), "an L2 table")) continue;
        if (enough(header_.cluster_size())) return {};
        TRY(refer(host, header_.cluster_size()));
        if (kind == Table::active) TRY(compare_copied(l1[i], "the L2 table"));
        TRY(walk_l2(host, i * header_.l2_covers(), disk_size, kind));
    }
    return {};
}

base::Result<void> Checker::walk_l2(std::uint64_t host, std::uint64_t guest,
                                    std::uint64_t disk_size, Table kind)
{
    std::vector<std::byte> bytes(header_.cluster_size());
    if (const int error = file_.read_at(host, bytes); error != 0) {
        return unreadable("an L2 table", error);
    }
    for (std::uint64_t i = 0; i < header_.l2_entries(); ++i, guest += header_.cluster_size()) {
        const auto raw = load_be<std::uint64_t>(&bytes[i * 8]);
        if (raw == 0) continue;
        L2Entry entry;
        if (!decode_l2(header_, raw, entry)) {
            complain(fmt::format("the entry of disk offset {:#x} is {:#x}", guest, raw));
            continue;
        }
        if (entry.host == 0) continue;
        // What is behind the disk's end need not be there.
        std::uint64_t length = guest < disk_size ? std::min(header_.cluster_size(),
                                                            disk_size - guest) : 1;
        if (entry.kind == L2Entry::Kind::compressed) length = 1;
        if (!inside(entry.host, length, "a cluster")) continue;
        length = entry.kind == L2Entry::Kind::compressed ? entry.length : header_.cluster_size();
        TRY(refer(entry.host, length));
        if (kind == Table::snapshot) continue;
        ++report_.allocated_clusters;
        if (entry.kind == L2Entry::Kind::compressed) ++report_.compressed_clusters;
        else TRY(compare_copied(raw, "the cluster"));
    }
    return {};
}

base::Result<std::uint64_t> Checker::refcount(std::uint64_t cluster)
{
    const std::uint64_t per_block = header_.refcounts_per_block();
    const std::uint64_t index = cluster / per_block;
    if (index >= refcount_table_.size() || refcount_table_[index] == 0) return std::uint64_t{0};
    int error = 0;
    const auto block = blocks_.get(refcount_table_[index], error);
    if (!block) return unreadable("a refcount block", error);
    return load_refcount(block->bytes, header_.refcount_order, cluster % per_block);
}

base::Result<void> Checker::compare_copied(std::uint64_t raw, std::string_view what)
{
    if (refcount_table_.empty() || refcounts_are_late(header_)) return {};
    const std::uint64_t host = raw & entry_offset;
    const std::uint64_t count = TRY(refcount(host >> header_.cluster_bits));
    if ((count == 1) != ((raw & entry_copied) != 0)) {
        complain(fmt::format("{} at {:#x} has refcount {} and is marked as {}", what, host, count,
                             (raw & entry_copied) != 0 ? "unshared" : "shared"));
    }
    return {};
}

base::Result<void> Checker::compare()
{
    if (!report_.complete) return {};
    const std::uint64_t per_block = header_.refcounts_per_block();
    for (std::size_t index = 0; index < refcount_table_.size(); ++index) {
        if (refcount_table_[index] == 0) continue;
        int error = 0;
        const auto block = blocks_.get(refcount_table_[index], error);
        if (!block) return unreadable("a refcount block", error);
        for (std::uint64_t i = 0; i < per_block; ++i) {
            const std::uint64_t cluster = index * per_block + i;
            const auto has = load_refcount(block->bytes, header_.refcount_order, i);
            const auto counted = has == 0 ? 0 : counts_.get(cluster);
            if (has <= counted) continue;
            ++report_.leaks;
            if (leaked_.size() < most_leaks_kept) leaked_.push_back({cluster, counted});
        }
    }
    if (refcounts_are_late(header_)) return {};
    base::Result<void> result;
    counts_.for_each([&](std::uint64_t cluster, std::uint64_t counted) {
        if (!result) return;
        const auto has = refcount(cluster);
        if (!has) {
            result = has.error();
        } else if (*has < counted) {
            complain(fmt::format("the cluster at {:#x} is referred to {} times and has refcount {}",
                                 cluster << header_.cluster_bits, counted, *has));
        }
    });
    return result;
}

base::Result<void> Checker::fix_copied_flags()
{
    const auto write = [&](std::uint64_t at, std::uint64_t raw) -> base::Result<void> {
        std::byte entry[8];
        store_be(entry, raw);
        const int error = file_.write_at(at, entry);
        if (error == 0) return {};
        return base::errno_error(base::ErrorKind::io, "Cannot write a table", error);
    };
    const auto wanted = [&](std::uint64_t raw) {
        const bool alone = counts_.get((raw & entry_offset) >> header_.cluster_bits) == 1;
        return alone ? raw | entry_copied : raw & ~entry_copied;
    };
    const auto l1 = TRY(read_l1(file_, header_, header_.l1_offset, header_.l1_size));
    std::vector<std::byte> bytes(header_.cluster_size());
    for (std::size_t i = 0; i < l1.size(); ++i) {
        const std::uint64_t host = l1[i] & entry_offset;
        if (host == 0 || host >= file_size_) continue;
        if (file_.read_at(host, bytes) != 0) continue;
        for (std::uint64_t j = 0; j < header_.l2_entries(); ++j) {
            const auto raw = load_be<std::uint64_t>(&bytes[j * 8]);
            L2Entry entry;
            // The flag alone may be what makes it invalid.
            if (!decode_l2(header_, raw & ~entry_copied, entry) || entry.host >= file_size_) continue;
            const bool takes_flag = entry.kind != L2Entry::Kind::compressed && entry.host != 0;
            const std::uint64_t right = takes_flag ? wanted(raw) : raw & ~entry_copied;
            if (right != raw) TRY(write(host + j * 8, right));
        }
        if (wanted(l1[i]) != l1[i]) TRY(write(header_.l1_offset + i * 8, wanted(l1[i])));
    }
    return {};
}

}  // namespace doppel::backends::qcow2
