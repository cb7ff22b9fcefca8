// Software TLB: guest-linear page to host address, per privilege and per kind of access.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>

#include "x86/page_walk.h"

namespace doppel::engine::interpret {

// Whose rights an access has. Supervisor accesses with SMAP in force never reach user
// pages; `supervisor_ac` is supervisor with EFLAGS.AC set or SMAP off; `implicit` is
// supervisor access by the processor itself (descriptor tables), to which AC does not apply.
enum MmuIndex : std::uint8_t { mmu_user, mmu_supervisor, mmu_supervisor_ac, mmu_count };

struct TlbEntry {
    static constexpr std::uint64_t invalid = ~std::uint64_t{0};
    // Set in the tag of a writable page that has decoded code: no fast path matches, the slow
    // path need not walk.
    static constexpr std::uint64_t code = 1;
    std::uint64_t tag = invalid;   // linear address of the page
    std::uint64_t addend = 0;      // host address = linear + addend
};

// Where instructions of a page are, in the RAM block of GuestMemory.
struct FetchEntry {
    static constexpr std::uint64_t no_memory = ~std::uint64_t{0};
    std::uint64_t tag = TlbEntry::invalid;
    std::uint64_t ram_offset = no_memory;  // of the page
};

// Which entries were filled with what a CR3 load drops: few, mostly, of many.
class FilledSlots {
public:
    void add(unsigned mmu, unsigned slot)
    {
        if (count_ < slots_.size()) slots_[count_] = {static_cast<std::uint16_t>(slot),
                                                      static_cast<std::uint8_t>(mmu)};
        ++count_;
    }
    void clear() { count_ = 0; }
    // False: more than are known, so any.
    [[nodiscard]] bool known() const { return count_ <= slots_.size(); }
    template <typename Visit>
    void for_each(Visit&& visit) const
    {
        for (std::size_t i = 0; i < count_; ++i) visit(slots_[i].mmu, slots_[i].slot);
    }

private:
    struct Slot {
        std::uint16_t slot;
        std::uint8_t mmu;
    };
    std::array<Slot, 256> slots_{};
    std::size_t count_ = 0;
};

struct Tlb {
    static constexpr unsigned bits = 10;
    static constexpr unsigned size = 1u << bits;
    static constexpr unsigned fetch_size = 256;
    using Table = std::array<TlbEntry, size>;
    static unsigned slot(std::uint64_t linear) { return (linear >> 12) & (size - 1); }
    static unsigned fetch_slot(std::uint64_t linear) { return (linear >> 12) & (fetch_size - 1); }

    // A page is in `write` (without the code bit) only when it is writable RAM, dirty already
    // set, without decoded code.
    std::array<Table, mmu_count> read, write;
    Table empty;  // never filled
    // Translations global in the paging sense survive CR3 loads: bit 0 of read's, bit 1 of
    // write's entry.
    std::array<std::array<std::uint8_t, size>, mmu_count> global{};
    std::array<bool, mmu_count> used{};  // filled since the last full flush
    FilledSlots local;                   // filled with what is not global since the last flush
    std::array<std::array<FetchEntry, fetch_size>, 2> fetch;  // supervisor, user

    x86::UpperTables upper;

    // Regions of which a piece of a large page is here, hashed: INVLPG of such a page has to
    // drop all its pieces.
    static constexpr unsigned regions = 512;
    std::bitset<regions> pieces_2m, pieces_1g;
    static unsigned region_2m(std::uint64_t linear) { return (linear >> 21) & (regions - 1); }
    static unsigned region_1g(std::uint64_t linear) { return (linear >> 30) & (regions - 1); }
};

}  // namespace doppel::engine::interpret
