#include "x86/check_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

namespace doppel::x86 {
namespace {

CpuidPolicy policy() { return CpuidPolicy::create(this_host(), 1, 1'000'000'000); }

TEST(CheckState, AResetIsPossible)
{
    EXPECT_TRUE(check_state(reset_state(true), policy()));
}

TEST(CheckState, EverythingImpossibleIsRefused)
{
    const CpuidPolicy cpuid = policy();
    const std::function<void(CpuState&)> changes[] = {
        [](CpuState& s) { s.cr0 |= cr0::PG; },                  // without PE
        [](CpuState& s) { s.cr0 = cr0::NW | cr0::ET; },         // without CD
        [](CpuState& s) { s.cr0 |= std::uint64_t{1} << 40; },
        [](CpuState& s) { s.cr4 |= std::uint64_t{1} << 31; },
        [](CpuState& s) { s.efer |= efer::LMA; },               // without LME and PG
        [](CpuState& s) { s.efer |= 2; },
        [](CpuState& s) { s.rflags |= std::uint64_t{1} << 30; },
        [](CpuState& s) { s.xcr0 = 0; },
        [](CpuState& s) { s.xcr0 |= std::uint64_t{1} << 9; },
        [](CpuState& s) { s.xss = 1; },
        [](CpuState& s) { s.xsave.bytes[26] = 1; },             // MXCSR bit 16
        [](CpuState& s) { s.xsave.bytes[513] = 2; },            // XSTATE_BV bit 9
        [](CpuState& s) { s.xsave.bytes[527] = 0x80; },         // XCOMP_BV bit 63
        [](CpuState& s) { std::memset(&s.events.activity, 77, 1); },
        [](CpuState& s) { std::memset(&s.events.nmi_blocked, 2, 1); },
    };
    for (std::size_t i = 0; i < std::size(changes); ++i) {
        CpuState state = reset_state(true);
        changes[i](state);
        EXPECT_FALSE(check_state(state, cpuid)) << i;
    }
}

}  // namespace
}  // namespace doppel::x86
