// Page walk over guest page tables: 32-bit, PAE and 4-level, with permission checks and
// accessed/dirty updates. SDM volume 3 chapter 4. Memory is injected as a policy so that
// a unit test can watch every access.
#pragma once

#include <array>
#include <cstdint>
#include <variant>

#include "base/address.h"
#include "x86/fault.h"

namespace doppel::x86 {

enum class Access : std::uint8_t { read, write, execute };

// Everything the walk depends on besides memory.
struct PagingState {
    std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
    std::uint64_t rflags_ac = 0;  // non-zero: SMAP is overridden (explicit supervisor access)
    unsigned physical_address_bits = 46;
};

struct Translation {
    base::Gpa gpa;                // of the byte asked for
    std::uint64_t page_size = 0;  // 4 KiB, 2 MiB, 4 MiB, 1 GiB
    // What the TLB may remember. user, global: of the page, over all levels. writable,
    // executable: whether an access with the same `user` and PagingState may write or execute
    // here (WP, SMEP and SMAP included). dirty: the leaf's D bit is set after the walk; a
    // TLB that lets a write through without it loses the D update. accessed: the A bits of the
    // leaf and of all entries above it are set; only such a translation may be remembered
    // (SDM 4.10.2.3), and only probe() finds others. All true but global when paging is off.
    bool user = false, writable = false, executable = false, dirty = false, global = false,
         accessed = false;
};

using WalkResult = std::variant<Translation, Fault>;

// The policy: physical loads, and compare-and-swap for A/D bits.
// read/cas of an address without memory: read gives all ones, cas is dropped (true).
class PageTableMemory {
public:
    virtual ~PageTableMemory() = default;
    virtual std::uint64_t read(base::Gpa gpa, unsigned size) noexcept = 0;
    virtual bool compare_and_swap(base::Gpa gpa, unsigned size, std::uint64_t expected,
                                  std::uint64_t desired) noexcept = 0;
};

// What a processor's paging-structure caches hold (SDM 4.10.3): by 2 MiB of linear addresses, the
// last table of a 4-level walk and the rights above it. To be cleared at each flush, INVLPG of any
// address included, and at each change of PagingState but for rflags_ac.
class UpperTables {
public:
    struct Entry {
        std::uint64_t region = none;
        std::uint64_t table = 0;  // physical address
        bool user = false, writable = false, no_execute = false;
    };
    static constexpr std::uint64_t none = ~std::uint64_t{0};

    [[nodiscard]] Entry& at(std::uint64_t linear) { return entries_[region(linear) % entries_.size()]; }
    [[nodiscard]] static std::uint64_t region(std::uint64_t linear) { return linear >> 21; }
    void clear() { entries_.fill({}); }

private:
    std::array<Entry, 32> entries_;
};

// linear: already checked canonical. user: the access is a user-mode access (CPL 3 and
// not an implicit supervisor access). Sets A, and D on writes, exactly as hardware does:
// only when the access is allowed. upper: of this processor; nullptr: none. What raises a fault was
// looked up without them.
WalkResult walk(PageTableMemory& memory, const PagingState& paging, std::uint64_t linear,
                Access access, bool user, UpperTables* upper = nullptr) noexcept;

// The same answer, without A/D updates: for debuggers, logs and tests.
WalkResult probe(PageTableMemory& memory, const PagingState& paging, std::uint64_t linear,
                 Access access, bool user, UpperTables* upper = nullptr) noexcept;

// PAE with CR3 load: true unless a PDPTE has reserved bits set (SDM 4.4.1).
bool pae_pdptes_valid(PageTableMemory& memory, const PagingState& paging) noexcept;

}  // namespace doppel::x86
