// Software TLB: guest-linear page to host address, per privilege and per kind of access.
#pragma once

#include <array>
#include <cstdint>

namespace doppel::engine::interpret {

// Whose rights an access has. Supervisor accesses with SMAP in force never reach user
// pages; `supervisor_ac` is supervisor with EFLAGS.AC set or SMAP off; `implicit` is
// supervisor access by the processor itself (descriptor tables), to which AC does not apply.
enum MmuIndex : std::uint8_t { mmu_user, mmu_supervisor, mmu_supervisor_ac, mmu_count };

struct TlbEntry {
    static constexpr std::uint64_t invalid = ~std::uint64_t{0};
    std::uint64_t tag = invalid;   // linear address of the page
    std::uint64_t addend = 0;      // host address = linear + addend
};

struct Tlb {
    static constexpr unsigned bits = 10;
    static constexpr unsigned size = 1u << bits;
    using Table = std::array<TlbEntry, size>;
    static unsigned slot(std::uint64_t linear) { return (linear >> 12) & (size - 1); }

    // A page is in `write` only when it is writable RAM, dirty already set, without decoded code.
    std::array<Table, mmu_count> read, write;
    // Pages with translations global in the paging sense, to survive CR3 loads.
    std::array<std::array<bool, size>, mmu_count> global{};
};

}  // namespace doppel::engine::interpret
