#include "base/mapped_region.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

namespace doppel::base {

MappedRegion& MappedRegion::operator=(MappedRegion&& other) noexcept
{
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

MappedRegion::~MappedRegion()
{
    if (data_ != nullptr) ::munmap(data_, size_);
}

Result<MappedRegion> MappedRegion::map(std::size_t size, int prot, int flags, int fd, long offset)
{
    void* address = ::mmap(nullptr, size, prot, flags, fd, offset);
    if (address == MAP_FAILED) return errno_error(ErrorKind::host, "Cannot map memory", errno);
    return MappedRegion{static_cast<std::byte*>(address), size};
}

Result<MappedRegion> MappedRegion::map_aligned(std::size_t size, std::size_t alignment, int prot,
                                               int flags, int fd, long offset)
{
    MappedRegion room = TRY(map(size + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
    const std::size_t before = (0 - reinterpret_cast<std::uintptr_t>(room.data_)) & (alignment - 1);
    std::byte* const at = room.data_ + before;
    if (::mmap(at, size, prot, flags | MAP_FIXED, fd, offset) == MAP_FAILED) {
        return errno_error(ErrorKind::host, "Cannot map memory", errno);
    }
    if (before != 0) ::munmap(room.data_, before);
    if (before != alignment) ::munmap(at + size, alignment - before);
    room.data_ = at;
    room.size_ = size;
    return room;
}

Result<MappedRegion> MappedRegion::map_at(void* address, std::size_t size, int prot, int flags,
                                          int fd, long offset)
{
    void* mapped = ::mmap(address, size, prot, flags | MAP_FIXED_NOREPLACE, fd, offset);
    if (mapped == MAP_FAILED) return errno_error(ErrorKind::host, "Cannot map memory", errno);
    MappedRegion region{static_cast<std::byte*>(mapped), size};
    // Kernels before 4.17 take the flag for a hint.
    if (mapped != address) return host_error("Cannot map memory where it has to be");
    return region;
}

}  // namespace doppel::base
