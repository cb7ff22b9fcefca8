// Owner of one mmap()ed range of this process.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/result.h"

namespace doppel::base {

class MappedRegion {
public:
    MappedRegion() = default;
    MappedRegion(MappedRegion&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0))
    {
    }
    MappedRegion& operator=(MappedRegion&& other) noexcept;
    MappedRegion(const MappedRegion&) = delete;
    MappedRegion& operator=(const MappedRegion&) = delete;
    ~MappedRegion();

    // prot and flags as for mmap(2); fd -1 with MAP_ANONYMOUS.
    static Result<MappedRegion> map(std::size_t size, int prot, int flags, int fd = -1,
                                    long offset = 0);
    // At a multiple of `alignment`, itself one of the page size.
    static Result<MappedRegion> map_aligned(std::size_t size, std::size_t alignment, int prot,
                                            int flags, int fd, long offset = 0);
    // At this address and no other: fails when something is there already.
    static Result<MappedRegion> map_at(void* address, std::size_t size, int prot, int flags,
                                       int fd = -1, long offset = 0);

    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }

private:
    MappedRegion(std::byte* data, std::size_t size) : data_(data), size_(size) {}
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace doppel::base
