#include "engine/translate/worker/supervisor_mapper.h"

#include <sys/mman.h>

#include <bit>

namespace doppel::engine::translate {

namespace {

// Small pieces are about to be used: one call instead of a call and a host page fault.
constexpr std::uint64_t populate_max = 64 * 1024;

void* pointer(std::uint64_t address) { return std::bit_cast<void*>(address); }
int rights(bool writable) { return writable ? PROT_READ | PROT_WRITE : PROT_READ; }

}  // namespace

bool SupervisorMapper::map(std::uint64_t address, std::uint64_t length, std::uint64_t ram_offset,
                           bool writable) noexcept
{
    const int populate = length <= populate_max ? MAP_POPULATE : 0;
    const memory::GuestMemory::Place place = memory_.place(ram_offset);
    return ::mmap(pointer(address), length, rights(writable), MAP_SHARED | MAP_FIXED | populate,
                  place.fd, static_cast<off_t>(place.offset)) != MAP_FAILED;
}

bool SupervisorMapper::unmap(std::uint64_t address, std::uint64_t length) noexcept
{
    return ::munmap(pointer(address), length) == 0;
}

bool SupervisorMapper::protect(std::uint64_t address, std::uint64_t length, bool writable) noexcept
{
    return ::mprotect(pointer(address), length, rights(writable)) == 0;
}

}  // namespace doppel::engine::translate
