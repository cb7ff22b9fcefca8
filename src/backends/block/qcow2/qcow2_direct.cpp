// Reads and overwrites that are no more than the same of the file.
//
// They differ from Operation in one thing: who does them must not wait, and metadata_ may be held
// over an access to the file. So they begin only if it is free, and their end is noted under a
// mutex of its own.
#include "backends/block/qcow2/qcow2_image.h"

namespace doppel::backends::qcow2 {

using Kind = L2Entry::Kind;

std::optional<Image::Direct> Qcow2Image::begin_direct(Access access, std::uint64_t offset,
                                                      std::uint64_t length)
{
    const std::unique_lock lock{metadata_, std::try_to_lock};
    if (!lock.owns_lock()) return std::nullopt;
    forget_ended();
    const bool writes = access == Access::write;
    const std::uint64_t l1_index = offset / header_.l2_covers();
    if ((writes && read_only_) || l1_index >= l1_.size()) return std::nullopt;
    const std::uint64_t l1_entry = l1_[l1_index];
    if ((l1_entry & entry_offset) == 0) return std::nullopt;
    // A table that a snapshot has, too, is copied first.
    if (writes && (l1_entry & entry_copied) == 0) return std::nullopt;
    const auto table = l2_->cached(l1_entry & entry_offset);
    const std::uint64_t first = offset >> header_.cluster_bits;
    const std::uint64_t last = (offset + length - 1) >> header_.cluster_bits;
    if (!table || last / header_.l2_entries() != l1_index) return std::nullopt;
    std::uint64_t host = 0;
    for (std::uint64_t cluster = first; cluster <= last; ++cluster) {
        L2Entry entry;
        if (entry_at(*table, cluster, entry) != 0 || entry.kind != Kind::data) return std::nullopt;
        if (writes && (!entry.copied || allocating(cluster))) return std::nullopt;
        if (cluster == first) host = entry.host;
        if (entry.host != host + (cluster - first) * header_.cluster_size()) return std::nullopt;
    }
    operations_.insert(++epoch_);
    return Direct{host + offset % header_.cluster_size(), epoch_};
}

void Qcow2Image::end_direct(const Direct& direct)
{
    const std::lock_guard lock{ended_mutex_};
    ended_.push_back(direct.token);
}

void Qcow2Image::forget_ended()
{
    const std::lock_guard lock{ended_mutex_};
    for (const std::uint64_t epoch : ended_) operations_.erase(operations_.find(epoch));
    ended_.clear();
}

}  // namespace doppel::backends::qcow2
