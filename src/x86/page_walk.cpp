#include "x86/page_walk.h"

#include <array>

namespace doppel::x86 {

namespace {

using base::Gpa;

// Bits common to paging-structure entries of all formats (SDM 4.3-4.5).
namespace entry {
constexpr std::uint64_t P = 1u << 0, RW = 1u << 1, US = 1u << 2, A = 1u << 5, D = 1u << 6,
    PS = 1u << 7, G = 1u << 8, XD = std::uint64_t{1} << 63;
}  // namespace entry

enum class Format : std::uint8_t { bits32, pae, level4 };
enum class Updates : std::uint8_t { accessed_dirty, none };

constexpr std::uint64_t KIB = 1024, MIB = 1024 * KIB;

// Bits low..high, both included.
constexpr std::uint64_t bits(unsigned low, unsigned high)
{
    return low > high ? 0 : (~std::uint64_t{0} >> (63 - high)) & (~std::uint64_t{0} << low);
}

Format format_of(const PagingState& paging)
{
    if ((paging.efer & efer::LMA) != 0) return Format::level4;
    return (paging.cr4 & cr4::PAE) != 0 ? Format::pae : Format::bits32;
}

struct Step {
    Gpa address;
    std::uint64_t value = 0;
    bool has_accessed = true;  // PAE PDPTEs have no A bit
};

struct Path {
    std::array<Step, 4> steps{};
    unsigned count = 0;
    std::uint64_t page_size = 0;
    std::uint64_t frame = 0;  // physical address of the page
    // Rights over all levels, before CR0.WP, SMEP and SMAP.
    bool user = true, writable = true, no_execute = false;
};

enum class Trouble : std::uint8_t { none, not_present, reserved };

bool all_accessed(const Path& path)
{
    for (unsigned i = 0; i < path.count; ++i) {
        const Step& step = path.steps[i];
        if (step.has_accessed && (step.value & entry::A) == 0) return false;
    }
    return true;
}

class Walker {
public:
    Walker(PageTableMemory& memory, const PagingState& paging, std::uint64_t linear,
           UpperTables* upper)
        : memory_(memory), paging_(paging), linear_(linear), upper_(upper),
          format_(format_of(paging)),
          nxe_(format_ != Format::bits32 && (paging.efer & efer::NXE) != 0)
    {
    }

    // Follows the structures to the leaf. Reads only.
    Trouble descend(Path& path) const
    {
        return format_ == Format::bits32 ? descend_bits32(path) : descend_wide(path);
    }

    [[nodiscard]] bool nxe() const { return nxe_; }
    [[nodiscard]] unsigned entry_size() const { return format_ == Format::bits32 ? 4 : 8; }

private:
    // Into the path, member by member: a copy of it as a whole would wait for both stores.
    const Step& read(Path& path, std::uint64_t table, std::uint64_t index) const
    {
        Step& step = path.steps[path.count++];
        step.address = Gpa{table + index * entry_size()};
        step.value = memory_.read(step.address, entry_size());
        return step;
    }

    static void combine(Path& path, std::uint64_t value)
    {
        path.user = path.user && (value & entry::US) != 0;
        path.writable = path.writable && (value & entry::RW) != 0;
    }

    Trouble descend_bits32(Path& path) const
    {
        const std::uint64_t linear = linear_ & 0xffffffff;
        const Step& pde = read(path, paging_.cr3 & bits(12, 31), linear >> 22);
        if ((pde.value & entry::P) == 0) return Trouble::not_present;
        if ((pde.value & entry::PS) != 0 && (paging_.cr4 & cr4::PSE) != 0) {
            // PSE-36 (SDM table 4-4): bits 20:13 are physical address bits 39:32.
            const unsigned width = paging_.physical_address_bits < 40 ? paging_.physical_address_bits : 40;
            const unsigned first_reserved = width < 32 ? 13 : width - 19;
            if ((pde.value & bits(first_reserved, 21)) != 0) return Trouble::reserved;
            combine(path, pde.value);
            path.page_size = 4 * MIB;
            path.frame = (pde.value & bits(22, 31)) | ((pde.value & bits(13, 20)) << 19);
            return Trouble::none;
        }
        combine(path, pde.value);
        const Step& pte = read(path, pde.value & bits(12, 31), (linear >> 12) & 0x3ff);
        if ((pte.value & entry::P) == 0) return Trouble::not_present;
        combine(path, pte.value);
        path.page_size = 4 * KIB;
        path.frame = pte.value & bits(12, 31);
        return Trouble::none;
    }

    Trouble descend_wide(Path& path) const
    {
        const bool pae = format_ == Format::pae;
        const std::uint64_t linear = pae ? linear_ & 0xffffffff : linear_;
        // Reserved in every entry: PAE reserves all of 62:MAXPHYADDR, 4-level ignores 62:52.
        std::uint64_t reserved = bits(paging_.physical_address_bits, pae ? 62 : 51);
        if (!nxe_) reserved |= entry::XD;

        std::uint64_t table = pae ? paging_.cr3 & bits(5, 31) : paging_.cr3 & bits(12, 51);
        for (unsigned level = recall(path, table) ? 1 : pae ? 3 : 4;; --level) {
            const unsigned shift = 12 + 9 * (level - 1);
            const std::uint64_t value = read(path, table, (linear >> shift) & 0x1ff).value;
            if ((value & entry::P) == 0) return Trouble::not_present;
            if (pae && level == 3) {
                // SDM table 4-8. No rights and no A bit in a PAE PDPTE.
                if ((value & pdpte_reserved(paging_)) != 0) return Trouble::reserved;
                path.steps[path.count - 1].has_accessed = false;
                table = value & bits(12, 51);
                continue;
            }
            const bool large = (level == 2 || level == 3) && (value & entry::PS) != 0;
            std::uint64_t level_reserved = reserved;
            if (level == 4) level_reserved |= entry::PS;
            if (large) level_reserved |= bits(13, shift - 1);
            if ((value & level_reserved) != 0) return Trouble::reserved;
            combine(path, value);
            path.no_execute = path.no_execute || (value & entry::XD) != 0;
            if (large || level == 1) {
                path.page_size = std::uint64_t{1} << shift;
                path.frame = value & bits(shift, 51);
                return Trouble::none;
            }
            table = value & bits(12, 51);
            if (level == 2) remember(path, table);
        }
    }

public:
    static std::uint64_t pdpte_reserved(const PagingState& paging)
    {
        return bits(1, 2) | bits(5, 8) | bits(paging.physical_address_bits, 63);
    }

private:
    // The way down to the last table as it was before, if it was.
    bool recall(Path& path, std::uint64_t& table) const
    {
        if (upper_ == nullptr || format_ != Format::level4) return false;
        const UpperTables::Entry& entry = upper_->at(linear_);
        if (entry.region != UpperTables::region(linear_)) return false;
        path.user = entry.user;
        path.writable = entry.writable;
        path.no_execute = entry.no_execute;
        table = entry.table;
        return true;
    }

    // Only what is accessed already may be kept.
    void remember(const Path& path, std::uint64_t table) const
    {
        if (upper_ == nullptr || format_ != Format::level4 || !all_accessed(path)) return;
        upper_->at(linear_) = {UpperTables::region(linear_), table, path.user, path.writable,
                               path.no_execute};
    }

    PageTableMemory& memory_;
    const PagingState& paging_;
    std::uint64_t linear_;
    UpperTables* upper_;
    Format format_;
    bool nxe_;
};

// SDM 4.6.1, for one class of access (user or supervisor).
struct Rights {
    bool read = false, write = false, execute = false;
};

Rights rights_of(const Path& path, const PagingState& paging, bool user)
{
    if (user) {
        return {path.user, path.user && path.writable, path.user && !path.no_execute};
    }
    const bool smap = path.user && (paging.cr4 & cr4::SMAP) != 0 && paging.rflags_ac == 0;
    const bool smep = path.user && (paging.cr4 & cr4::SMEP) != 0;
    const bool write = path.writable || (paging.cr0 & cr0::WP) == 0;
    return {!smap, !smap && write, !smep && !path.no_execute};
}

bool allowed(const Rights& rights, Access access)
{
    switch (access) {
    case Access::read: return rights.read;
    case Access::write: return rights.write;
    case Access::execute: return rights.execute;
    }
    return false;
}

// SDM 4.7.
std::uint32_t error_code(const PagingState& paging, bool nxe, Access access, bool user)
{
    std::uint32_t code = 0;
    if (access == Access::write) code |= page_fault::W;
    if (user) code |= page_fault::U;
    if (access == Access::execute && (nxe || (paging.cr4 & cr4::SMEP) != 0)) code |= page_fault::I;
    return code;
}

// True when every entry has its A (and the leaf its D) bit; false: an entry changed under
// us, and the walk has to start over from what is there now.
bool update_accessed_dirty(PageTableMemory& memory, Path& path, unsigned entry_size, Access access)
{
    for (unsigned i = 0; i < path.count; ++i) {
        Step& step = path.steps[i];
        if (!step.has_accessed) continue;
        std::uint64_t wanted = step.value | entry::A;
        if (access == Access::write && i + 1 == path.count) wanted |= entry::D;
        if (wanted == step.value) continue;
        if (!memory.compare_and_swap(step.address, entry_size, step.value, wanted)) return false;
        step.value = wanted;
    }
    return true;
}

WalkResult walk_with(PageTableMemory& memory, const PagingState& paging, std::uint64_t linear,
                     Access access, bool user, Updates updates, UpperTables* upper)
{
    if ((paging.cr0 & cr0::PG) == 0) {
        return Translation{Gpa{linear}, 4 * KIB, true, true, true, true, false, true};
    }
    const Walker walker{memory, paging, linear, upper};
    const std::uint32_t code = error_code(paging, walker.nxe(), access, user);
    for (;;) {
        Path path;
        switch (walker.descend(path)) {
        case Trouble::not_present:
            return make_page_fault(code, linear);
        case Trouble::reserved:
            return make_page_fault(code | page_fault::P | page_fault::RSVD, linear);
        case Trouble::none:
            break;
        }
        const Rights rights = rights_of(path, paging, user);
        if (!allowed(rights, access)) return make_page_fault(code | page_fault::P, linear);
        // A failed compare-and-swap means that someone else made progress, so this ends.
        if (updates == Updates::accessed_dirty &&
            !update_accessed_dirty(memory, path, walker.entry_size(), access)) {
            continue;
        }
        const std::uint64_t leaf = path.steps[path.count - 1].value;
        Translation translation;
        translation.gpa = Gpa{path.frame | (linear & (path.page_size - 1))};
        translation.page_size = path.page_size;
        translation.user = path.user;
        translation.writable = rights.write;
        translation.executable = rights.execute;
        translation.dirty = (leaf & entry::D) != 0;
        translation.accessed = all_accessed(path);
        translation.global = (leaf & entry::G) != 0 && (paging.cr4 & cr4::PGE) != 0;
        return translation;
    }
}

}  // namespace

WalkResult walk(PageTableMemory& memory, const PagingState& paging, std::uint64_t linear,
                Access access, bool user, UpperTables* upper) noexcept
{
    constexpr auto updates = Updates::accessed_dirty;
    const WalkResult result = walk_with(memory, paging, linear, access, user, updates, upper);
    if (upper == nullptr || !std::holds_alternative<Fault>(result)) return result;
    // SDM 4.10.4.1: a page fault invalidates what its address was looked up with.
    upper->at(linear) = {};
    return walk_with(memory, paging, linear, access, user, updates, upper);
}

WalkResult probe(PageTableMemory& memory, const PagingState& paging, std::uint64_t linear,
                 Access access, bool user, UpperTables* upper) noexcept
{
    return walk_with(memory, paging, linear, access, user, Updates::none, upper);
}

bool pae_pdptes_valid(PageTableMemory& memory, const PagingState& paging) noexcept
{
    for (std::uint64_t i = 0; i < 4; ++i) {
        const Gpa address{(paging.cr3 & bits(5, 31)) + i * 8};
        const std::uint64_t value = memory.read(address, 8);
        if ((value & entry::P) != 0 && (value & Walker::pdpte_reserved(paging)) != 0) return false;
    }
    return true;
}

}  // namespace doppel::x86
