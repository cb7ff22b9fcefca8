// The supervisor window's way to change the worker's own address space.
#pragma once

#include "engine/translate/space/guest_pages.h"
#include "memory/guest_memory.h"

namespace doppel::engine::translate {

class SupervisorMapper final : public HostMapper {
public:
    explicit SupervisorMapper(const memory::GuestMemory& memory) : memory_(memory) {}
    bool map(std::uint64_t address, std::uint64_t length, std::uint64_t ram_offset,
             bool writable) noexcept override;
    bool unmap(std::uint64_t address, std::uint64_t length) noexcept override;
    bool protect(std::uint64_t address, std::uint64_t length, bool writable) noexcept override;

private:
    const memory::GuestMemory& memory_;
};

}  // namespace doppel::engine::translate
