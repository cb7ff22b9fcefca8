// Executable memory for thunks. One memfd, mapped twice: writable at one address and
// executable at another, so that no page is ever both, and writing a thunk needs no
// mprotect (a system call and a TLB flush per new instruction).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/mapped_region.h"
#include "base/result.h"

namespace doppel::engine::interpret::thunk {

class Arena {
public:
    static base::Result<Arena> create(std::size_t size);

    // Copies code in; the executable address, or nullptr when full.
    const std::uint8_t* place(std::span<const std::uint8_t> code);
    // Forgets all code. Nothing of it may be running or run again.
    void clear();

    [[nodiscard]] bool contains(std::uint64_t address) const
    {
        return address - reinterpret_cast<std::uint64_t>(execute_.data()) < execute_.size();
    }

private:
    base::Fd fd_;
    base::MappedRegion write_, execute_;
    std::size_t used_ = 0;
};

}  // namespace doppel::engine::interpret::thunk
