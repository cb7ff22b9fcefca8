#include "x86/cpu_state.h"

#include <gtest/gtest.h>

#include "x86/registers.h"

namespace doppel::x86 {
namespace {

TEST(InitState, KeepsWhatInitKeeps)
{
    CpuState before = reset_state(false);
    before.gpr[RAX] = 1;
    before.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::CD;
    before.cr3 = 0x1000;
    before.efer = efer::LME;
    before.lstar = 0x1234;
    before.tsc = 77;
    before.xsave.bytes[160] = 9;  // XMM0
    before.kvm_steal_time = 0x2001;
    before.events.activity = Activity::halted;
    const CpuState after = init_state(before);
    EXPECT_EQ(after.gpr[RAX], 0u);
    EXPECT_EQ(after.cr0, cr0::ET | cr0::CD);
    EXPECT_EQ(after.cr3, 0u);
    EXPECT_EQ(after.efer, 0u);
    EXPECT_EQ(after.lstar, 0x1234u);
    EXPECT_EQ(after.tsc, 77u);
    EXPECT_EQ(after.xsave.bytes[160], 9);
    EXPECT_EQ(after.kvm_steal_time, 0u);
    EXPECT_EQ(after.events.activity, Activity::wait_for_sipi);
    EXPECT_EQ(init_state(reset_state(true)).events.activity, Activity::running);
}

TEST(StartUp, BeginsAtTheVectorsPage)
{
    CpuState state = reset_state(false);
    start_up(state, 0x9a);
    EXPECT_EQ(state.segments[CS].selector, 0x9a00);
    EXPECT_EQ(state.segments[CS].base, 0x9a000u);
    EXPECT_EQ(state.rip, 0u);
    EXPECT_EQ(state.events.activity, Activity::running);
}

}  // namespace
}  // namespace doppel::x86
