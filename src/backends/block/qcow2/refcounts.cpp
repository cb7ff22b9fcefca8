#include "backends/block/qcow2/refcounts.h"

#include <algorithm>
#include <cerrno>

namespace doppel::backends::qcow2 {

namespace {

constexpr std::uint64_t blocks_memory = 8 << 20;
constexpr std::uint64_t table_entry_known = ~std::uint64_t{511};
constexpr std::uint64_t reserve_step = 1 << 20;

}  // namespace

Refcounts::Refcounts(ByteFile& file, Header& header)
    : file_(file), header_(header), blocks_(file, header.cluster_size(), blocks_memory)
{
}

base::Result<std::unique_ptr<Refcounts>> Refcounts::load(ByteFile& file, Header& header)
{
    std::unique_ptr<Refcounts> counts{new Refcounts{file, header}};
    std::vector<std::byte> bytes(std::uint64_t{header.refcount_table_clusters}
                                 << header.cluster_bits);
    if (const int error = file.read_at(header.refcount_table_offset, bytes); error != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot read the refcount table", error);
    }
    counts->table_.resize(bytes.size() / 8);
    for (std::size_t i = 0; i < counts->table_.size(); ++i) {
        const auto entry = load_be<std::uint64_t>(&bytes[i * 8]);
        if ((entry & ~table_entry_known) != 0 || entry % header.cluster_size() != 0 ||
            entry >= max_offset) {
            return base::io_error("The refcount table is damaged");
        }
        counts->table_[i] = entry;
    }
    counts->file_end_ = file.size();
    counts->used_end_ = header.clusters_for(counts->file_end_) << header.cluster_bits;
    return counts;
}

std::shared_ptr<Table> Refcounts::block(std::uint64_t index, int& error)
{
    error = 0;
    if (index >= table_.size() || table_[index] == 0) return nullptr;
    return blocks_.get(table_[index], error);
}

int Refcounts::get(std::uint64_t cluster, std::uint64_t& value)
{
    int error = 0;
    const std::uint64_t per_block = header_.refcounts_per_block();
    const auto table = block(cluster / per_block, error);
    value = table ? load_refcount(table->bytes, header_.refcount_order, cluster % per_block) : 0;
    return error;
}

int Refcounts::set(std::uint64_t cluster, std::uint64_t value)
{
    const std::uint64_t per_block = header_.refcounts_per_block();
    const std::uint64_t index = cluster / per_block;
    while (index >= table_.size()) {
        if (const int error = grow_table(); error != 0) return error;
    }
    if (table_[index] == 0) {
        if (value == 0) return 0;
        if (const int error = make_block(index); error != 0) return error;
    }
    int error = 0;
    const auto table = block(index, error);
    if (!table) return error != 0 ? error : EIO;
    store_refcount(table->bytes, header_.refcount_order, cluster % per_block, value);
    blocks_.mark_dirty(*table);
    if (value == 0) next_free_ = std::min(next_free_, cluster);
    return 0;
}

int Refcounts::add(std::uint64_t cluster)
{
    std::uint64_t value = 0;
    if (const int error = get(cluster, value); error != 0) return error;
    if (value >= header_.largest_refcount()) return EOVERFLOW;
    return set(cluster, value + 1);
}

int Refcounts::remove(std::uint64_t cluster)
{
    std::uint64_t value = 0;
    if (const int error = get(cluster, value); error != 0) return error;
    if (value == 0) return EIO;
    return set(cluster, value - 1);
}

int Refcounts::make_block(std::uint64_t index)
{
    // Nothing in the block's range is in use, so the block can be the first of it, and counts
    // itself.
    const std::uint64_t host = (index * header_.refcounts_per_block()) << header_.cluster_bits;
    if (host >= max_offset) return EFBIG;
    if (const int error = reserve(host + header_.cluster_size()); error != 0) return error;
    const auto table = blocks_.make(host);
    store_refcount(table->bytes, header_.refcount_order, 0, 1);
    table_[index] = host;
    dirty_entries_.insert(index);
    return 0;
}

int Refcounts::write_blocks()
{
    const auto dirty = blocks_.take_dirty();
    for (const auto& copy : dirty) {
        const int error = file_.write_at(copy.table->host, copy.bytes);
        if (error == 0) continue;
        blocks_.give_back(dirty);
        return error;
    }
    return 0;
}

// A table of half as many entries more, behind everything that the old one knows. The blocks
// that count the new table's clusters come first, then the table.
int Refcounts::grow_table()
{
    const std::uint64_t cluster = header_.cluster_size();
    const std::uint64_t per_block = header_.refcounts_per_block();
    const std::uint64_t first_index = table_.size();
    const std::uint64_t first = first_index * per_block;
    std::uint64_t wanted = table_.size() + table_.size() / 2 + 1;
    std::uint64_t blocks = 1;
    std::uint64_t table_clusters = 0;
    while (true) {
        table_clusters = header_.clusters_for(std::max(wanted, first_index + blocks) * 8);
        const std::uint64_t needed = (blocks + table_clusters + per_block - 1) / per_block;
        if (needed <= blocks) break;
        blocks = needed;
    }
    if (table_clusters * cluster > max_refcount_table_bytes) return EFBIG;
    const std::uint64_t used = blocks + table_clusters;
    if ((first + used) * cluster >= max_offset) return EFBIG;
    if (const int error = reserve((first + used) * cluster); error != 0) return error;

    std::vector<std::uint64_t> table = table_;
    table.resize(table_clusters * cluster / 8);
    for (std::uint64_t i = 0; i < blocks; ++i) {
        const std::uint64_t host = (first + i) * cluster;
        const auto block = blocks_.make(host);
        const std::uint64_t counted = std::min(per_block, used - std::min(used, i * per_block));
        for (std::uint64_t c = 0; c < counted; ++c) {
            store_refcount(block->bytes, header_.refcount_order, c, 1);
        }
        table[first_index + i] = host;
    }
    std::vector<std::byte> bytes(table.size() * 8);
    for (std::size_t i = 0; i < table.size(); ++i) store_be(&bytes[i * 8], table[i]);
    const std::uint64_t host = (first + blocks) * cluster;
    // The header may point at the table only when all of it is there.
    if (const int error = write_blocks(); error != 0) return error;
    if (const int error = file_.write_at(host, bytes); error != 0) return error;
    if (const int error = file_.flush(); error != 0) return error;
    std::byte place[12];
    store_be(place, host);
    store_be(place + 8, static_cast<std::uint32_t>(table_clusters));
    if (const int error = file_.write_at(48, place); error != 0) return error;
    if (const int error = file_.flush(); error != 0) return error;

    const std::uint64_t old_first = header_.refcount_table_offset / cluster;
    const std::uint64_t old_clusters = header_.refcount_table_clusters;
    header_.refcount_table_offset = host;
    header_.refcount_table_clusters = static_cast<std::uint32_t>(table_clusters);
    table_ = std::move(table);
    dirty_entries_.clear();
    for (std::uint64_t i = 0; i < old_clusters; ++i) {
        if (const int error = remove(old_first + i); error != 0) return error;
    }
    return 0;
}

int Refcounts::reserve(std::uint64_t end)
{
    if (end > file_end_) {
        if (!file_.properties().can_grow) return ENOSPC;
        // In steps, for each is a change of the file system's.
        const std::uint64_t wanted = (end + reserve_step - 1) / reserve_step * reserve_step;
        if (const int error = file_.resize(wanted); error != 0) return error;
        file_end_ = wanted;
    }
    used_end_ = std::max(used_end_, end);
    return 0;
}

// Free clusters from `from` on, inside one refcount block.
int Refcounts::free_run(std::uint64_t from, std::uint64_t most, std::uint64_t& first,
                        std::uint64_t& count)
{
    const std::uint64_t per_block = header_.refcounts_per_block();
    for (std::uint64_t index = from / per_block;; ++index) {
        while (index >= table_.size()) {
            if (const int error = grow_table(); error != 0) return error;
        }
        if (table_[index] == 0) {
            if (const int error = make_block(index); error != 0) return error;
        }
        int error = 0;
        const auto table = block(index, error);
        if (!table) return error != 0 ? error : EIO;
        const auto in_use = [&](std::uint64_t at) {
            return load_refcount(table->bytes, header_.refcount_order, at) != 0;
        };
        std::uint64_t at = std::max(from, index * per_block) - index * per_block;
        while (at < per_block && in_use(at)) ++at;
        if (at == per_block) continue;
        std::uint64_t end = at + 1;
        while (end < per_block && end - at < most && !in_use(end)) ++end;
        first = index * per_block + at;
        count = end - at;
        return 0;
    }
}

int Refcounts::allocate(std::uint64_t most, Allocation& found)
{
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    if (const int error = free_run(next_free_, most, first, count); error != 0) return error;
    const std::uint64_t host = first << header_.cluster_bits;
    if (host >= max_offset - (count << header_.cluster_bits)) return EFBIG;
    const bool fresh = host >= used_end_ && file_.properties().can_grow;
    if (const int error = reserve(host + (count << header_.cluster_bits)); error != 0) return error;
    for (std::uint64_t i = 0; i < count; ++i) {
        if (const int error = set(first + i, 1); error != 0) return error;
    }
    next_free_ = first + count;
    found = {host, count, fresh};
    return 0;
}

int Refcounts::allocate_run(std::uint64_t count, std::uint64_t& host)
{
    if (count >= header_.refcounts_per_block()) return EFBIG;  // each range begins with its block
    std::uint64_t from = next_free_;
    std::uint64_t run_start = 0;
    std::uint64_t run = 0;
    while (run < count) {
        std::uint64_t first = 0;
        std::uint64_t got = 0;
        if (const int error = free_run(from, count - run, first, got); error != 0) return error;
        if (run == 0 || first != run_start + run) {
            run_start = first;
            run = 0;
        }
        run += got;
        from = first + got;
    }
    host = run_start << header_.cluster_bits;
    if (host >= max_offset - (count << header_.cluster_bits)) return EFBIG;
    if (const int error = reserve(host + (count << header_.cluster_bits)); error != 0) return error;
    for (std::uint64_t i = 0; i < count; ++i) {
        if (const int error = set(run_start + i, 1); error != 0) return error;
    }
    return 0;
}

int Refcounts::write_out()
{
    if (const int error = write_blocks(); error != 0) return error;
    if (dirty_entries_.empty()) return 0;
    // New blocks before what points at them.
    if (const int error = file_.flush(); error != 0) return error;
    while (!dirty_entries_.empty()) {
        const std::size_t index = *dirty_entries_.begin();
        std::byte entry[8];
        store_be(entry, table_[index]);
        const int error = file_.write_at(header_.refcount_table_offset + index * 8, entry);
        if (error != 0) return error;
        dirty_entries_.erase(dirty_entries_.begin());
    }
    return 0;
}

}  // namespace doppel::backends::qcow2
