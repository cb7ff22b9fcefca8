// Writing: in place where the cluster is this disk's alone, else to a new one.
#include <algorithm>
#include <cerrno>

#include "backends/block/qcow2/compression.h"
#include "backends/block/qcow2/operation.h"
#include "backends/block/qcow2/qcow2_image.h"

namespace doppel::backends::qcow2 {

using Kind = L2Entry::Kind;

namespace {

bool in_place(const L2Entry& entry)
{
    return entry.kind == Kind::data && entry.copied;
}

}  // namespace

// The L2 table, this disk's alone: made if there is none, copied if a snapshot has it, too.
std::shared_ptr<Table> Qcow2Image::l2_for_write(std::uint64_t l1_index, int& error)
{
    auto table = l2_for_read(l1_index, error);
    if (error != 0) return nullptr;
    if (table && (l1_[l1_index] & entry_copied) != 0) return table;
    Allocation place;
    error = refcounts_->allocate(1, place);
    if (error != 0) return nullptr;
    auto made = l2_->make(place.host);
    if (table) {
        made->bytes = table->bytes;
        give_back(table->host, header_.cluster_size());
    }
    l1_[l1_index] = place.host | entry_copied;
    dirty_l1_.insert(l1_index);
    return made;
}

void Qcow2Image::set_entry(Table& table, std::uint64_t cluster, std::uint64_t raw)
{
    store_be(&table.bytes[cluster % header_.l2_entries() * 8], raw);
    l2_->mark_dirty(table);
}

void Qcow2Image::give_back(std::uint64_t host, std::uint64_t length)
{
    freed_.push_back({host, length, epoch_});
}

void Qcow2Image::give_back(const L2Entry& entry)
{
    if (entry.host == 0) return;
    give_back(entry.host, entry.kind == Kind::compressed ? entry.length : header_.cluster_size());
}

bool Qcow2Image::allocating(std::uint64_t cluster) const
{
    const auto after = allocating_.upper_bound(cluster);
    return after != allocating_.begin() && std::prev(after)->second > cluster;
}

// Until nobody is giving any of these clusters a place. The lock is given up meanwhile.
void Qcow2Image::wait_for_allocations(std::unique_lock<std::mutex>& lock, std::uint64_t first,
                                      std::uint64_t last)
{
    allocated_.wait(lock, [&] {
        const auto next = allocating_.lower_bound(first);
        return !allocating(first) && (next == allocating_.end() || next->first > last);
    });
}

int Qcow2Image::write(std::uint64_t offset, std::span<const iovec> buffers)
{
    if (read_only_) return EROFS;
    int error = 0;
    {
        const Operation operation{*this};
        error = do_write(offset, buffers);
    }
    return error != 0 ? error : flush_if_much();
}

int Qcow2Image::do_write(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t length = total_length(buffers);
    for (std::uint64_t done = 0; done < length;) {
        std::uint64_t written = 0;
        const auto rest = slice(buffers, done, length - done);
        if (const int error = write_some(offset + done, rest, written); error != 0) return error;
        done += written;
    }
    return 0;
}

int Qcow2Image::write_some(std::uint64_t offset, std::span<const iovec> buffers,
                           std::uint64_t& written)
{
    const std::uint64_t cluster_size = header_.cluster_size();
    const std::uint64_t first = offset >> header_.cluster_bits;
    const std::uint64_t last = (offset + total_length(buffers) - 1) >> header_.cluster_bits;
    std::unique_lock lock{metadata_};
    wait_for_allocations(lock, first, first);
    int error = 0;
    const auto table = l2_for_write(first / header_.l2_entries(), error);
    if (!table) return error;
    L2Entry entry;
    if (entry_at(*table, first, entry) != 0) return EIO;
    const bool here = in_place(entry);
    // How many clusters in a row are to be treated alike; the end of the table ends them, too.
    std::uint64_t clusters = 1;
    for (; first + clusters <= last && (first + clusters) % header_.l2_entries() != 0; ++clusters) {
        L2Entry next;
        if (allocating(first + clusters) || entry_at(*table, first + clusters, next) != 0) break;
        if (in_place(next) != here) break;
        if (here && next.host != entry.host + clusters * cluster_size) break;
    }
    if (!here) return write_new(lock, offset, buffers, clusters, written);
    lock.unlock();
    const std::uint64_t inside = offset % cluster_size;
    written = std::min(total_length(buffers), clusters * cluster_size - inside);
    return file_->write(entry.host + inside, slice(buffers, 0, written));
}

// The clusters get new places, which nobody sees before everything is there: what is written, and
// around it what was there before.
int Qcow2Image::write_new(std::unique_lock<std::mutex>& lock, std::uint64_t offset,
                          std::span<const iovec> buffers, std::uint64_t clusters,
                          std::uint64_t& written)
{
    const std::uint64_t cluster_size = header_.cluster_size();
    const std::uint64_t first = offset >> header_.cluster_bits;
    Allocation place;
    if (const int error = refcounts_->allocate(clusters, place); error != 0) return error;
    clusters = place.clusters;
    allocating_[first] = first + clusters;
    lock.unlock();

    const std::uint64_t start = first << header_.cluster_bits;
    const std::uint64_t end = start + clusters * cluster_size;
    written = std::min(total_length(buffers), end - offset);
    const std::uint64_t stop = offset + written;
    const auto data = slice(buffers, 0, written);
    const auto store = [&]() -> int {
        std::vector<std::byte> head;
        std::vector<std::byte> tail;
        // Around it: nothing to do where a new place is zero already and shall be.
        if (!(place.reads_zero && reads_zero(start, offset - start))) head.resize(offset - start);
        const std::uint64_t tail_there = std::min(end, std::max(stop, size_)) - stop;
        if (!(place.reads_zero && reads_zero(stop, tail_there))) tail.resize(end - stop);
        if (!head.empty()) {
            const iovec buffer{head.data(), head.size()};
            if (const int error = do_read(start, {&buffer, 1}); error != 0) return error;
        }
        if (!tail.empty() && tail_there != 0) {
            const iovec buffer{tail.data(), tail_there};
            if (const int error = do_read(stop, {&buffer, 1}); error != 0) return error;
        }
        std::vector<iovec> all;
        if (!head.empty()) all.push_back({head.data(), head.size()});
        all.insert(all.end(), data.begin(), data.end());
        if (!tail.empty()) all.push_back({tail.data(), tail.size()});
        return file_->write(place.host + (offset - start) - head.size(), all);
    };
    int error = 0;
    try {
        error = store();
    } catch (const std::bad_alloc&) {
        error = ENOMEM;
    }

    lock.lock();
    const auto table = error == 0 ? l2_for_write(first / header_.l2_entries(), error) : nullptr;
    for (std::uint64_t i = 0; i < clusters; ++i) {
        const std::uint64_t host = place.host + i * cluster_size;
        if (!table) {
            static_cast<void>(refcounts_->remove(host >> header_.cluster_bits));  // else leaked
            continue;
        }
        L2Entry old;
        if (entry_at(*table, first + i, old) == 0) give_back(old);
        set_entry(*table, first + i, host | entry_copied);
    }
    allocating_.erase(first);
    allocated_.notify_all();
    return error;
}

int Qcow2Image::write_zero_bytes(std::uint64_t offset, std::uint64_t length)
{
    if (length == 0 || reads_zero(offset, length)) return 0;
    constexpr std::uint64_t piece = 1 << 20;
    std::vector<std::byte> zeroes(std::min(piece, length));
    for (std::uint64_t done = 0; done < length;) {
        const iovec buffer{zeroes.data(), std::min<std::uint64_t>(zeroes.size(), length - done)};
        if (const int error = do_write(offset + done, {&buffer, 1}); error != 0) return error;
        done += buffer.iov_len;
    }
    return 0;
}

int Qcow2Image::write_zeroes(std::uint64_t offset, std::uint64_t length, bool)
{
    if (read_only_) return EROFS;
    if (length == 0) return 0;
    const std::uint64_t mask = header_.cluster_size() - 1;
    const std::uint64_t end = offset + length;
    const std::uint64_t first = (offset + mask) & ~mask;
    // The disk may end inside its last cluster; nothing behind it is ever read.
    const std::uint64_t last = end == size_ ? (end + mask) & ~mask : end & ~mask;
    int error = 0;
    {
        const Operation operation{*this};
        if (first >= last || (header_.version < 3 && backing_)) {
            error = write_zero_bytes(offset, length);
        } else {
            error = write_zero_bytes(offset, first - offset);
            if (error == 0) {
                error = empty_clusters(first >> header_.cluster_bits,
                                       last >> header_.cluster_bits, Empty::zero);
            }
            if (error == 0 && end > last) error = write_zero_bytes(last, end - last);
        }
    }
    return error != 0 ? error : flush_if_much();
}

int Qcow2Image::discard(std::uint64_t offset, std::uint64_t length)
{
    if (read_only_) return EROFS;
    const std::uint64_t mask = header_.cluster_size() - 1;
    const std::uint64_t end = offset + length;
    const std::uint64_t first = (offset + mask) & ~mask;
    const std::uint64_t last = end == size_ ? (end + mask) & ~mask : end & ~mask;
    // Version 2 cannot say "zero" of a cluster that a backing file has, too.
    if (first >= last || (header_.version < 3 && backing_)) return 0;
    int error = 0;
    {
        const Operation operation{*this};
        error = empty_clusters(first >> header_.cluster_bits, last >> header_.cluster_bits,
                               Empty::discard);
    }
    return error != 0 ? error : flush_if_much();
}

int Qcow2Image::empty_clusters(std::uint64_t first, std::uint64_t last, Empty how)
{
    const std::uint64_t per_table = header_.l2_entries();
    for (std::uint64_t cluster = first; cluster < last;) {
        const std::uint64_t index = cluster / per_table;
        const std::uint64_t stop = std::min(last, (index + 1) * per_table);
        std::unique_lock lock{metadata_};
        wait_for_allocations(lock, cluster, stop - 1);
        const bool none = (l1_[index] & entry_offset) == 0;
        // Never written: zero already, or the backing file's, which a discard may leave.
        if (none && (!backing_ || how == Empty::discard)) {
            cluster = stop;
            continue;
        }
        int error = 0;
        const auto table = l2_for_write(index, error);
        if (!table) return error;
        for (; cluster < stop; ++cluster) {
            L2Entry old;
            if (entry_at(*table, cluster, old) != 0) return EIO;
            if (old.kind == Kind::zero && old.host == 0) continue;
            if (old.kind == Kind::unallocated && (!backing_ || how == Empty::discard)) continue;
            set_entry(*table, cluster, backing_ ? entry_zero : 0);
            give_back(old);
        }
        lock.unlock();
        if (error = flush_if_much(); error != 0) return error;
    }
    return 0;
}

int Qcow2Image::write_compressed(std::uint64_t offset, std::span<const std::byte> cluster)
{
    if (read_only_) return EROFS;
    const std::uint64_t cluster_size = header_.cluster_size();
    ASSERT(cluster.size() == cluster_size && offset % cluster_size == 0);
    const auto bytes = compress(header_.compression, cluster);
    if (bytes.empty()) {
        return write_at(offset, cluster.first(std::min(cluster_size, size_ - offset)));
    }
    {
        const std::lock_guard lock{metadata_};
        // Behind the last one, in the same cluster, if the next cluster in a row is free, too, or
        // not needed; else in a new one.
        const std::uint64_t inside = compressed_end_ % cluster_size;
        std::uint64_t host = compressed_end_;
        const bool started = inside != 0;
        if (!started || inside + bytes.size() > cluster_size) {
            Allocation place;
            if (const int error = refcounts_->allocate(1, place); error != 0) return error;
            const bool in_a_row = started && place.host == compressed_end_ - inside + cluster_size;
            if (!in_a_row) host = place.host;
        }
        if (started && host == compressed_end_) {
            const int error = refcounts_->add(host >> header_.cluster_bits);
            if (error != 0) return error;
        }
        if (const int error = file_->write_at(host, bytes); error != 0) return error;
        compressed_end_ = host + bytes.size();
        const std::uint64_t number = offset >> header_.cluster_bits;
        int error = 0;
        const auto table = l2_for_write(number / header_.l2_entries(), error);
        if (!table) return error;
        L2Entry old;
        if (entry_at(*table, number, old) != 0) return EIO;
        give_back(old);
        set_entry(*table, number, encode_compressed(header_, host, bytes.size()));
    }
    return flush_if_much();
}

}  // namespace doppel::backends::qcow2
