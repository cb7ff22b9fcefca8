#include "x86/page_walk.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace doppel::x86 {
namespace {

// Guest-physical memory that remembers every access.
class FakeMemory final : public PageTableMemory {
public:
    struct Write {
        std::uint64_t address, from, to;
        bool operator==(const Write&) const = default;
    };
    std::map<std::uint64_t, std::uint64_t> cells;
    std::vector<std::uint64_t> reads;
    std::vector<Write> writes;
    // Called before the nth compare-and-swap: another processor's chance.
    std::map<unsigned, std::pair<std::uint64_t, std::uint64_t>> interference;
    unsigned swaps = 0;

    std::uint64_t read(base::Gpa gpa, unsigned size) noexcept override
    {
        reads.push_back(gpa.value);
        const auto cell = cells.find(gpa.value);
        const std::uint64_t value = cell == cells.end() ? ~std::uint64_t{0} : cell->second;
        return size == 4 ? value & 0xffffffff : value;
    }
    bool compare_and_swap(base::Gpa gpa, unsigned, std::uint64_t expected,
                          std::uint64_t desired) noexcept override
    {
        const auto other = interference.find(swaps++);
        if (other != interference.end()) cells[other->second.first] = other->second.second;
        auto cell = cells.find(gpa.value);
        if (cell == cells.end()) return true;
        if (cell->second != expected) return false;
        writes.push_back({gpa.value, expected, desired});
        cell->second = desired;
        return true;
    }
};

constexpr std::uint64_t P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100;
constexpr std::uint64_t XD = std::uint64_t{1} << 63;
constexpr std::uint64_t root = 0x1000, l3 = 0x2000, l2 = 0x3000, l1 = 0x4000;

enum class Mode { bits32, pae, level4 };

PagingState state_of(Mode mode)
{
    PagingState paging;
    paging.cr0 = cr0::PE | cr0::PG | cr0::WP;
    paging.cr3 = root;
    paging.cr4 = mode == Mode::bits32 ? cr4::PSE : cr4::PAE;
    if (mode == Mode::level4) paging.efer = efer::LME | efer::LMA;
    if (mode != Mode::bits32) paging.efer |= efer::NXE;
    return paging;
}

// Where a 4 KiB mapping of `linear` has its entries, top first.
std::vector<std::uint64_t> entry_addresses(Mode mode, std::uint64_t linear)
{
    const auto at = [&](std::uint64_t table, unsigned shift, std::uint64_t mask, unsigned size) {
        return table + ((linear >> shift) & mask) * size;
    };
    switch (mode) {
    case Mode::bits32: return {at(root, 22, 0x3ff, 4), at(l1, 12, 0x3ff, 4)};
    case Mode::pae: return {at(root, 30, 3, 8), at(l2, 21, 0x1ff, 8), at(l1, 12, 0x1ff, 8)};
    case Mode::level4:
        return {at(root, 39, 0x1ff, 8), at(l3, 30, 0x1ff, 8), at(l2, 21, 0x1ff, 8),
                at(l1, 12, 0x1ff, 8)};
    }
    return {};
}

constexpr std::uint64_t linear = 0x40503678, frame = 0x7654000;

// Maps `linear` to `frame`, with the rights of the upper levels and of the leaf.
void map(FakeMemory& memory, Mode mode, std::uint64_t upper, std::uint64_t leaf)
{
    const auto at = entry_addresses(mode, linear);
    switch (mode) {
    case Mode::bits32:
        memory.cells[at[0]] = l1 | upper;
        break;
    case Mode::pae:
        memory.cells[at[0]] = l2 | P;
        memory.cells[at[1]] = l1 | upper;
        break;
    case Mode::level4:
        memory.cells[at[0]] = l3 | upper;
        memory.cells[at[1]] = l2 | upper;
        memory.cells[at[2]] = l1 | upper;
        break;
    }
    memory.cells[at.back()] = frame | leaf;
}

const Translation* good(const WalkResult& result) { return std::get_if<Translation>(&result); }
std::uint32_t error_of(const WalkResult& result)
{
    const auto* fault = std::get_if<Fault>(&result);
    if (fault == nullptr) return ~0u;
    EXPECT_EQ(fault->vector, Vector::PF);
    EXPECT_TRUE(fault->has_error_code);
    return fault->error_code;
}

TEST(PageWalk, PagingOffIsIdentity)
{
    FakeMemory memory;
    PagingState paging;
    const auto result = walk(memory, paging, 0x12345678, Access::write, true);
    ASSERT_NE(good(result), nullptr);
    EXPECT_EQ(good(result)->gpa.value, 0x12345678u);
    EXPECT_TRUE(good(result)->user && good(result)->writable && good(result)->executable &&
                good(result)->dirty);
    EXPECT_FALSE(good(result)->global);
    EXPECT_TRUE(memory.reads.empty());
}

// SDM 4.6.1, said in its own words: which accesses to a page are allowed.
bool sdm_allows(bool user_page, bool writable, bool xd, Access access, bool user, bool wp, bool smep,
                bool smap, bool ac)
{
    if (!user) {
        if (access == Access::execute) return !xd && !(user_page && smep);
        if (user_page && smap && !ac) return false;
        return access == Access::read || writable || !wp;
    }
    if (!user_page) return false;
    if (access == Access::write) return writable;
    return access == Access::read || !xd;
}

class Permissions : public ::testing::TestWithParam<Mode> {};

TEST_P(Permissions, EveryCombination)
{
    const Mode mode = GetParam();
    const bool has_xd = mode != Mode::bits32;
    for (unsigned c = 0; c < 1u << 12; ++c) {
        const auto bit = [&](unsigned n) { return (c >> n & 1) != 0; };
        const bool upper_us = bit(0), upper_rw = bit(1), leaf_us = bit(2), leaf_rw = bit(3);
        const bool upper_xd = bit(4), leaf_xd = bit(5), user = bit(6), wp = bit(7);
        const bool smep = bit(8), smap = bit(9), ac = bit(10), nxe = bit(11);
        if ((!has_xd || !nxe) && (upper_xd || leaf_xd)) continue;
        for (const Access access : {Access::read, Access::write, Access::execute}) {
            FakeMemory memory;
            map(memory, mode,
                P | (upper_us ? US : 0) | (upper_rw ? RW : 0) | (upper_xd ? XD : 0),
                P | (leaf_us ? US : 0) | (leaf_rw ? RW : 0) | (leaf_xd ? XD : 0));
            PagingState paging = state_of(mode);
            if (!wp) paging.cr0 &= ~cr0::WP;
            if (smep) paging.cr4 |= cr4::SMEP;
            if (smap) paging.cr4 |= cr4::SMAP;
            if (ac) paging.rflags_ac = rflags::AC;
            if (!nxe) paging.efer &= ~efer::NXE;
            const bool user_page = upper_us && leaf_us, writable = upper_rw && leaf_rw;
            const bool xd = upper_xd || leaf_xd;
            const auto allows = [&](Access what) {
                return sdm_allows(user_page, writable, xd, what, user, wp, smep, smap, ac);
            };
            const auto before = memory.cells;
            const auto probed = probe(memory, paging, linear, access, user);
            EXPECT_EQ(memory.cells, before);
            const auto result = walk(memory, paging, linear, access, user);
            ASSERT_EQ(good(result) != nullptr, allows(access)) << std::hex << c;
            ASSERT_EQ(good(probed) != nullptr, allows(access)) << std::hex << c;
            if (good(result) != nullptr) {
                EXPECT_EQ(good(result)->gpa.value, frame | (linear & 0xfff));
                EXPECT_EQ(good(result)->user, user_page);
                EXPECT_EQ(good(result)->writable, allows(Access::write));
                EXPECT_EQ(good(result)->executable, allows(Access::execute));
                EXPECT_EQ(good(result)->dirty, access == Access::write);
            } else {
                std::uint32_t code = page_fault::P;
                if (access == Access::write) code |= page_fault::W;
                if (user) code |= page_fault::U;
                if (access == Access::execute && (smep || (has_xd && nxe))) code |= page_fault::I;
                EXPECT_EQ(error_of(result), code) << std::hex << c;
                EXPECT_EQ(std::get<Fault>(result).address, linear);
                // A denied access leaves no trace.
                EXPECT_EQ(memory.cells, before);
            }
        }
    }
}

TEST_P(Permissions, AccessedAndDirty)
{
    const Mode mode = GetParam();
    for (const Access access : {Access::read, Access::write, Access::execute}) {
        FakeMemory memory;
        map(memory, mode, P | RW | US, P | RW | US);
        const auto at = entry_addresses(mode, linear);
        auto expected = memory.cells;
        for (std::size_t i = 0; i < at.size(); ++i) {
            const bool pdpte = mode == Mode::pae && i == 0;
            if (!pdpte) expected[at[i]] |= A;
        }
        if (access == Access::write) expected[at.back()] |= D;
        ASSERT_NE(good(walk(memory, state_of(mode), linear, access, true)), nullptr);
        EXPECT_EQ(memory.cells, expected);
        // Top down, each entry once, and nothing the second time.
        EXPECT_EQ(memory.reads, at);
        const auto writes = memory.writes.size();
        ASSERT_NE(good(walk(memory, state_of(mode), linear, access, true)), nullptr);
        EXPECT_EQ(memory.writes.size(), writes);
    }
}

TEST_P(Permissions, NotPresentAtEachLevel)
{
    const Mode mode = GetParam();
    const auto at = entry_addresses(mode, linear);
    for (std::size_t level = 0; level < at.size(); ++level) {
        FakeMemory memory;
        map(memory, mode, P | RW | US, P | RW | US);
        // Reserved bits do not matter in an entry that is not present.
        memory.cells[at[level]] = ~P & (mode == Mode::bits32 ? 0xffffffff : ~std::uint64_t{0});
        const auto before = memory.cells;
        EXPECT_EQ(error_of(walk(memory, state_of(mode), linear, Access::write, true)),
                  page_fault::W | page_fault::U);
        EXPECT_EQ(memory.cells, before);
        EXPECT_EQ(memory.reads.size(), level + 1);
    }
}

TEST_P(Permissions, RestartsWhenAnEntryChangesUnderTheWalk)
{
    const Mode mode = GetParam();
    const auto at = entry_addresses(mode, linear);
    FakeMemory memory;
    map(memory, mode, P | RW | US, P | RW | US);
    const unsigned leaf_swap = mode == Mode::bits32 ? 1 : mode == Mode::pae ? 1 : 3;
    // Another processor moves the page just before our A/D update of the leaf...
    memory.interference[leaf_swap] = {at.back(), 0x9999000 | P | RW | US};
    auto result = walk(memory, state_of(mode), linear, Access::write, true);
    ASSERT_NE(good(result), nullptr);
    EXPECT_EQ(good(result)->gpa.value, 0x9999000u | (linear & 0xfff));
    EXPECT_EQ(memory.cells[at.back()], 0x9999000 | P | RW | US | A | D);
    // ... or takes the right to write away.
    FakeMemory other;
    map(other, mode, P | RW | US, P | RW | US);
    other.interference[leaf_swap] = {at.back(), frame | P | US};
    result = walk(other, state_of(mode), linear, Access::write, true);
    EXPECT_EQ(error_of(result), page_fault::P | page_fault::W | page_fault::U);
    EXPECT_EQ(other.cells[at.back()], frame | P | US);
}

std::string mode_name(const ::testing::TestParamInfo<Mode>& mode)
{
    switch (mode.param) {
    case Mode::bits32: return "Bits32";
    case Mode::pae: return "Pae";
    case Mode::level4: return "Level4";
    }
    return "";
}

INSTANTIATE_TEST_SUITE_P(Modes, Permissions,
                         ::testing::Values(Mode::bits32, Mode::pae, Mode::level4), mode_name);

// ---- reserved bits ------------------------------------------------------------------------

constexpr std::uint32_t rsvd = page_fault::P | page_fault::RSVD;

// Sets each bit of each entry in turn and says which of them fault as reserved.
std::uint64_t reserved_bits(Mode mode, std::size_t level, const PagingState& paging,
                            std::uint64_t large = 0)
{
    std::uint64_t found = 0;
    const auto at = entry_addresses(mode, linear);
    for (unsigned bit = 1; bit < (mode == Mode::bits32 ? 32u : 64u); ++bit) {
        FakeMemory memory;
        map(memory, mode, P | RW | US, P | RW | US);
        std::uint64_t& entry = memory.cells[at[level]];
        if (large != 0) entry = P | RW | US | large;
        entry |= std::uint64_t{1} << bit;
        const auto result = walk(memory, paging, linear, Access::read, false);
        const auto* fault = std::get_if<Fault>(&result);
        // A moved table reads as all ones further down; only this level counts here.
        if (fault != nullptr && fault->error_code == rsvd && memory.reads.size() == level + 1) {
            found |= std::uint64_t{1} << bit;
        }
    }
    return found;
}

std::uint64_t range(unsigned low, unsigned high)
{
    std::uint64_t mask = 0;
    for (unsigned i = low; i <= high; ++i) mask |= std::uint64_t{1} << i;
    return mask;
}

TEST(PageWalkReserved, Level4)
{
    for (const unsigned width : {36u, 46u, 52u}) {
        PagingState paging = state_of(Mode::level4);
        paging.physical_address_bits = width;
        const std::uint64_t high = range(width, 51);
        EXPECT_EQ(reserved_bits(Mode::level4, 0, paging), high | PS);
        // With PS the entry maps a page, and this table's address has reserved bits then.
        EXPECT_EQ(reserved_bits(Mode::level4, 1, paging) & ~PS, high);
        EXPECT_EQ(reserved_bits(Mode::level4, 3, paging), high);
        EXPECT_EQ(reserved_bits(Mode::level4, 1, paging, PS), high | range(13, 29));
        EXPECT_EQ(reserved_bits(Mode::level4, 2, paging, PS), high | range(13, 20));
        paging.efer &= ~efer::NXE;
        EXPECT_EQ(reserved_bits(Mode::level4, 3, paging), high | XD);
        EXPECT_EQ(reserved_bits(Mode::level4, 0, paging), high | PS | XD);
    }
}

TEST(PageWalkReserved, Pae)
{
    PagingState paging = state_of(Mode::pae);
    paging.physical_address_bits = 40;
    EXPECT_EQ(reserved_bits(Mode::pae, 0, paging), range(1, 2) | range(5, 8) | range(40, 63));
    EXPECT_EQ(reserved_bits(Mode::pae, 1, paging, PS), range(13, 20) | range(40, 62));
    EXPECT_EQ(reserved_bits(Mode::pae, 2, paging), range(40, 62));
    paging.efer = 0;
    EXPECT_EQ(reserved_bits(Mode::pae, 2, paging), range(40, 63));
}

TEST(PageWalkReserved, Pse36)
{
    PagingState paging = state_of(Mode::bits32);
    paging.physical_address_bits = 46;
    EXPECT_EQ(reserved_bits(Mode::bits32, 0, paging, PS), range(21, 21));
    paging.physical_address_bits = 36;
    EXPECT_EQ(reserved_bits(Mode::bits32, 0, paging, PS), range(17, 21));
    paging.physical_address_bits = 32;
    EXPECT_EQ(reserved_bits(Mode::bits32, 0, paging, PS), range(13, 21));
    EXPECT_EQ(reserved_bits(Mode::bits32, 1, paging), 0u);
}

TEST(PageWalkReserved, ReservedBeforePermission)
{
    FakeMemory memory;
    map(memory, Mode::level4, P, P | XD);
    PagingState paging = state_of(Mode::level4);
    paging.efer &= ~efer::NXE;
    EXPECT_EQ(error_of(walk(memory, paging, linear, Access::write, true)),
              rsvd | page_fault::W | page_fault::U);
}

// ---- large and global pages -----------------------------------------------------------------

TEST(PageWalkLarge, Sizes)
{
    FakeMemory memory;
    map(memory, Mode::level4, P | RW | US, P | RW | US);
    const auto at = entry_addresses(Mode::level4, linear);
    memory.cells[at[2]] = 0x80000000 | P | RW | PS | G;
    PagingState paging = state_of(Mode::level4);
    auto result = walk(memory, paging, linear, Access::write, false);
    ASSERT_NE(good(result), nullptr);
    EXPECT_EQ(good(result)->page_size, 0x200000u);
    EXPECT_EQ(good(result)->gpa.value, 0x80000000 | (linear & 0x1fffff));
    EXPECT_FALSE(good(result)->global);
    EXPECT_EQ(memory.cells[at[2]], 0x80000000 | P | RW | PS | G | A | D);

    paging.cr4 |= cr4::PGE;
    memory.cells[at[1]] = 0xc0000000 | P | RW | PS | G;
    result = walk(memory, paging, linear, Access::read, false);
    ASSERT_NE(good(result), nullptr);
    EXPECT_EQ(good(result)->page_size, 0x40000000u);
    EXPECT_EQ(good(result)->gpa.value, 0xc0000000 | (linear & 0x3fffffff));
    EXPECT_TRUE(good(result)->global);
    EXPECT_FALSE(good(result)->dirty);
}

TEST(PageWalkLarge, PseAndPse36)
{
    FakeMemory memory;
    map(memory, Mode::bits32, P | RW, P | RW);
    const auto at = entry_addresses(Mode::bits32, linear);
    memory.cells[at[0]] = 0x00c00000 | (0x12u << 13) | P | PS | (1u << 12);
    const PagingState paging = state_of(Mode::bits32);
    const auto result = walk(memory, paging, linear, Access::read, false);
    ASSERT_NE(good(result), nullptr);
    EXPECT_EQ(good(result)->page_size, 0x400000u);
    EXPECT_EQ(good(result)->gpa.value, 0x1200c00000 | (linear & 0x3fffff));
    // Without CR4.PSE the bit is ignored and the entry leads to a page table.
    PagingState no_pse = paging;
    no_pse.cr4 = 0;
    memory.reads.clear();
    static_cast<void>(walk(memory, no_pse, linear, Access::read, false));
    EXPECT_EQ(memory.reads.size(), 2u);
}

TEST(PageWalkLarge, Cr3LowBitsAreIgnored)
{
    for (const Mode mode : {Mode::bits32, Mode::pae, Mode::level4}) {
        FakeMemory memory;
        map(memory, mode, P | RW | US, P | RW | US);
        PagingState paging = state_of(mode);
        paging.cr3 |= mode == Mode::pae ? 0x1f : 0xfff;
        EXPECT_NE(good(walk(memory, paging, linear, Access::read, true)), nullptr);
    }
}

TEST(PageWalk, MemoryThatIsNotThereEnds)
{
    FakeMemory memory;
    for (const Mode mode : {Mode::bits32, Mode::pae, Mode::level4}) {
        EXPECT_EQ(error_of(walk(memory, state_of(mode), linear, Access::read, false)), rsvd);
    }
}

TEST(PageWalk, PaePdpteValidity)
{
    FakeMemory memory;
    PagingState paging = state_of(Mode::pae);
    for (std::uint64_t i = 0; i < 4; ++i) memory.cells[root + 8 * i] = 0x5000 | P | 8 | 0x10;
    EXPECT_TRUE(pae_pdptes_valid(memory, paging));
    memory.cells[root + 16] = RW;  // reserved, but not present
    EXPECT_TRUE(pae_pdptes_valid(memory, paging));
    memory.cells[root + 16] = P | RW;
    EXPECT_FALSE(pae_pdptes_valid(memory, paging));
    memory.cells[root + 16] = P | (std::uint64_t{1} << 46);
    EXPECT_FALSE(pae_pdptes_valid(memory, paging));
}

TEST(UpperTables, SaveAllButTheLastRead)
{
    FakeMemory memory;
    UpperTables upper;
    const PagingState paging = state_of(Mode::level4);
    map(memory, Mode::level4, P | RW | US | A, P | RW | US | A | D);
    const auto first = walk(memory, paging, linear, Access::write, true, &upper);
    ASSERT_NE(good(first), nullptr);
    EXPECT_EQ(memory.reads.size(), 4u);
    memory.reads.clear();
    const auto again = walk(memory, paging, linear, Access::write, true, &upper);
    ASSERT_NE(good(again), nullptr);
    EXPECT_EQ(memory.reads, std::vector{entry_addresses(Mode::level4, linear).back()});
    EXPECT_EQ(good(again)->gpa, good(first)->gpa);
    EXPECT_TRUE(good(again)->user && good(again)->writable && good(again)->accessed);
    // The next 2 MiB have other ones, with the same place here.
    memory.reads.clear();
    EXPECT_EQ(good(walk(memory, paging, linear + (std::uint64_t{32} << 21), Access::read, true, &upper)),
              nullptr);
    EXPECT_GT(memory.reads.size(), 1u);
}

TEST(UpperTables, HoldWhatTheLevelsAboveForbid)
{
    FakeMemory memory;
    UpperTables upper;
    const PagingState paging = state_of(Mode::level4);
    map(memory, Mode::level4, P | A | XD, P | RW | US | A | D);  // neither written nor executed, nor user's
    ASSERT_NE(good(walk(memory, paging, linear, Access::read, false, &upper)), nullptr);
    for (const bool probes : {false, true}) {
        const auto look = [&](Access access, bool user) {
            return probes ? probe(memory, paging, linear, access, user, &upper)
                          : walk(memory, paging, linear, access, user, &upper);
        };
        EXPECT_EQ(good(look(Access::write, false)), nullptr);
        EXPECT_EQ(good(look(Access::execute, false)), nullptr);
        EXPECT_EQ(good(look(Access::read, true)), nullptr);
        EXPECT_NE(good(look(Access::read, false)), nullptr);
    }
}

TEST(UpperTables, KeepOnlyWhatIsAccessed)
{
    FakeMemory memory;
    UpperTables upper;
    const PagingState paging = state_of(Mode::level4);
    map(memory, Mode::level4, P | RW | US, P | RW | US);
    // The first walk sets the bits, behind which the entries may be kept.
    ASSERT_NE(good(walk(memory, paging, linear, Access::read, true, &upper)), nullptr);
    EXPECT_EQ(memory.writes.size(), 4u);
    memory.reads.clear();
    ASSERT_NE(good(walk(memory, paging, linear, Access::read, true, &upper)), nullptr);
    EXPECT_EQ(memory.reads.size(), 4u);
    memory.reads.clear();
    const auto third = walk(memory, paging, linear, Access::read, true, &upper);
    ASSERT_NE(good(third), nullptr);
    EXPECT_EQ(memory.reads.size(), 1u);
    EXPECT_TRUE(good(third)->accessed);
}

// SDM 4.10.4.1: what a page fault comes of was not what was remembered.
TEST(UpperTables, AreNotTheCauseOfAFault)
{
    FakeMemory memory;
    UpperTables upper;
    const PagingState paging = state_of(Mode::level4);
    map(memory, Mode::level4, P | US | A, P | RW | US | A | D);
    ASSERT_NE(good(walk(memory, paging, linear, Access::read, true, &upper)), nullptr);
    // The guest gives more rights, for which it need not flush.
    map(memory, Mode::level4, P | RW | US | A, P | RW | US | A | D);
    EXPECT_NE(good(walk(memory, paging, linear, Access::write, true, &upper)), nullptr);
    // It moves the table, and flushes.
    memory.cells[entry_addresses(Mode::level4, linear)[2]] = 0;
    ASSERT_NE(good(walk(memory, paging, linear, Access::read, true, &upper)), nullptr);
    upper.clear();
    EXPECT_EQ(good(walk(memory, paging, linear, Access::read, true, &upper)), nullptr);
}

}  // namespace
}  // namespace doppel::x86
