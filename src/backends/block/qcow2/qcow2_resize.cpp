// Another size for the disk.
#include <algorithm>
#include <cerrno>

#include "backends/block/qcow2/qcow2_image.h"

namespace doppel::backends::qcow2 {

int Qcow2Image::resize(std::uint64_t size)
{
    if (read_only_) return EROFS;
    if (header_.snapshots != 0) return EOPNOTSUPP;
    if (size % 512 != 0 || size > max_offset) return EINVAL;
    const std::uint64_t before = size_;
    const std::uint64_t entries = size / header_.l2_covers() + (size % header_.l2_covers() != 0);
    if (entries * 8 > max_l1_bytes) return EFBIG;
    if (const int error = flush_metadata(); error != 0) return error;
    if (size < before) {
        // Nothing of what is cut off may be there when the disk grows again.
        if (const int error = write_zeroes(size, before - size, true); error != 0) return error;
    } else if (entries > l1_.size()) {
        if (const int error = grow_l1(entries); error != 0) return error;
    }
    if (const int error = flush_metadata(); error != 0) return error;
    std::byte place[8];
    store_be(place, size);
    if (const int error = file_->write_at(24, place); error != 0) return error;
    header_.size = size_ = size;
    // A longer backing file does not show through.
    const std::uint64_t shown = backing_ ? std::min(size, backing_->size()) : 0;
    if (shown > before) {
        if (const int error = write_zeroes(before, shown - before, true); error != 0) return error;
    }
    return flush_metadata();
}

int Qcow2Image::grow_l1(std::uint64_t entries)
{
    const std::lock_guard only_one{flushing_};
    const std::lock_guard lock{metadata_};
    const std::uint64_t clusters = header_.clusters_for(entries * 8);
    std::uint64_t host = 0;
    if (const int error = refcounts_->allocate_run(clusters, host); error != 0) return error;
    ASSERT(dirty_l1_.empty());
    std::vector<std::byte> bytes(clusters * header_.cluster_size());
    for (std::size_t i = 0; i < l1_.size(); ++i) store_be(&bytes[i * 8], l1_[i]);
    if (const int error = refcounts_->write_out(); error != 0) return error;
    if (const int error = file_->write_at(host, bytes); error != 0) return error;
    if (const int error = file_->flush(); error != 0) return error;
    std::byte place[12];
    store_be(place, static_cast<std::uint32_t>(entries));
    store_be(place + 4, host);
    if (const int error = file_->write_at(36, place); error != 0) return error;
    if (const int error = file_->flush(); error != 0) return error;
    if (!l1_.empty()) {
        give_back(header_.l1_offset, header_.clusters_for(l1_.size() * 8) << header_.cluster_bits);
    }
    header_.l1_offset = host;
    header_.l1_size = static_cast<std::uint32_t>(entries);
    l1_.resize(entries);
    return 0;
}

}  // namespace doppel::backends::qcow2
