// Exceptions, interrupts and the ways back, through tables in guest memory.
#include "system_machine.h"

namespace doppel::engine::interpret {
namespace {

using Mode = SystemMachine::Mode;
using M = SystemMachine;
using x86::RSP;

// ---- real mode ----------------------------------------------------------------------------

TEST(RealMode, InterruptPushesThreeWordsAndClearsIf)
{
    M m{Mode::real};
    m.put_code(M::code, {0xcd, 0x21});  // int 0x21
    m.state.rflags = 0x202;
    m.run();
    EXPECT_EQ(m.vector(), 0x21u);
    EXPECT_EQ(m.state.gpr[RSP], 0x7ffau);
    EXPECT_EQ(m.word16(0x7ffa), 2u);
    EXPECT_EQ(m.word16(0x7ffc), M::code >> 4);
    EXPECT_EQ(m.word16(0x7ffe), 0x202u);
    EXPECT_EQ(m.state.rflags & 0x200, 0u);
}

TEST(RealMode, IretComesBack)
{
    M m{Mode::real};
    m.put_code(M::code, {0xcd, 0x21, 0xf4});
    m.put(M::handlers + 0x21, std::uint8_t{0xcf});
    m.state.rflags = 0x202;
    m.run();
    EXPECT_EQ(m.state.rip, 3u);
    EXPECT_EQ(m.state.gpr[RSP], 0x8000u);
    EXPECT_EQ(m.state.rflags, 0x202u);
}

TEST(RealMode, VectorBeyondTheTableIsAGeneralProtectionFault)
{
    M m{Mode::real};
    m.put_code(M::code, {0xcd, 0x21});
    m.state.idtr.limit = 0x7f;
    m.run();
    EXPECT_EQ(m.vector(), 13u);
    EXPECT_EQ(m.word16(0x7ffa), 0u);  // the INT itself
}

TEST(RealMode, UnrealSegmentsKeepTheirLimit)
{
    M m{Mode::real};
    m.put_code(M::code, {0x8e, 0xd8,                                // mov ds, ax
                         0x67, 0x8a, 0x1d, 0, 0, 5, 0, 0xf4});      // mov bl, [0x50000]
    m.state.segments[x86::DS].limit = 0xffffffff;
    m.state.gpr[x86::RAX] = 0x1000;
    m.put(0x60000, std::uint8_t{0x5a});
    m.run();
    EXPECT_EQ(m.state.gpr[x86::RBX] & 0xff, 0x5au);
    EXPECT_EQ(m.state.segments[x86::DS].base, 0x10000u);
}

TEST(RealMode, FarCallAndReturn)
{
    M m{Mode::real};
    m.put_code(M::code, {0x9a, 0x10, 0, 0, 0x28, 0xf4});  // call 0x2800:0x10
    m.put_code(0x28010, {0xca, 2, 0});                    // retf 2
    m.run();
    EXPECT_EQ(m.state.rip, 6u);
    EXPECT_EQ(m.state.gpr[RSP], 0x8002u);
}

// ---- protected mode -------------------------------------------------------------------------

TEST(Protected, FaultFromUserSwitchesStacks)
{
    M m{Mode::protected32};
    m.enter_user();
    m.put_code(M::user_code, {0x0f, 0x0b});  // ud2
    m.run();
    EXPECT_EQ(m.vector(), 6u);
    EXPECT_EQ(m.state.gpr[RSP], M::stack0 - 20);
    EXPECT_EQ(m.word32(M::stack0 - 4), M::data3);
    EXPECT_EQ(m.word32(M::stack0 - 8), M::stack3);
    EXPECT_EQ(m.word32(M::stack0 - 12) & 0x10000, 0x10000u);  // RF
    EXPECT_EQ(m.word32(M::stack0 - 16), M::code3_32);
    EXPECT_EQ(m.word32(M::stack0 - 20), M::user_code);
    EXPECT_EQ(m.state.cpl(), 0u);
}

TEST(Protected, SoftwareInterruptNeedsTheGatesPrivilege)
{
    M m{Mode::protected32};
    m.enter_user();
    m.put_code(M::user_code, {0xcd, 0x40});
    m.run();
    EXPECT_EQ(m.vector(), 13u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP]), 0x40u * 8 + 2);

    m.set_gate(0x40, M::code0, 0xf, 3);
    m.enter_user();
    m.state.events.activity = x86::Activity::running;
    m.run();
    EXPECT_EQ(m.vector(), 0x40u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP]), M::user_code + 2);
}

TEST(Protected, AbsentGateAndForeignGateTypes)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0xcd, 0x41});
    m.set_gate(0x41, M::code0, 0xe, 3, 0, false);
    m.run();
    EXPECT_EQ(m.vector(), 11u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP]), 0x41u * 8 + 2);

    M other{Mode::protected32};
    other.put_code(M::code, {0xcd, 0x41});
    other.set_gate(0x41, M::code0, 0xc, 3);
    other.run();
    EXPECT_EQ(other.vector(), 13u);
}

TEST(Protected, DoubleFaultThenTriple)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0x0f, 0x0b});
    // #UD is benign: its bad gate gives #GP, whose bad gate gives #DF.
    m.set_gate(6, 0x1f8, 0xe, 0);
    m.set_gate(13, 0x1f8, 0xe, 0);
    m.run();
    EXPECT_EQ(m.vector(), 8u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP]), 0u);

    M triple{Mode::protected32};
    triple.put_code(M::code, {0x0f, 0x0b});
    triple.state.idtr.limit = 0;
    EXPECT_EQ(triple.run(), Interpreter::Stop::exit);
    EXPECT_TRUE(triple.shut_down());
}

TEST(Protected, NestedFaultOfAnExceptionHasExt)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0x0f, 0x0b});
    m.set_gate(6, 0x1f8, 0xe, 0);
    m.run();
    EXPECT_EQ(m.vector(), 13u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP]), 0x1f9u);
}

TEST(Protected, IretToVirtual8086AndBack)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0xcf});
    m.put_code(0x28000, {0xcd, 0x21});  // at 2800:0
    const std::array<std::uint32_t, 9> frame{0, 0x2800, 0x23002, 0xfff0, 0x3000,
                                             0x1111, 0x2222, 0x3333, 0x4444};
    m.state.gpr[RSP] = 0x30000;
    for (std::uint32_t i = 0; i < 9; ++i) m.put(0x30000 + 4 * i, frame[i]);
    m.set_gate(0x21, M::code0, 0xe, 3);
    m.run();
    EXPECT_EQ(m.vector(), 0x21u);
    EXPECT_EQ(m.state.gpr[RSP], M::stack0 - 36);
    EXPECT_EQ(m.word32(M::stack0 - 4), 0x4444u);   // GS
    EXPECT_EQ(m.word32(M::stack0 - 16), 0x1111u);  // ES
    EXPECT_EQ(m.word32(M::stack0 - 20), 0x3000u);  // SS
    EXPECT_EQ(m.word32(M::stack0 - 36), 2u);
    EXPECT_EQ(m.state.rflags & x86::rflags::VM, 0u);
    EXPECT_TRUE(m.state.segments[x86::DS].unusable());
}

TEST(Protected, CallGateCopiesParametersInward)
{
    M m{Mode::protected32};
    // Call gate at `spare`: DPL 3, two parameters, to code0:handlers+0x80.
    m.put(M::gdt + M::spare, (M::handlers + 0x80) & 0xffff | std::uint64_t{M::code0} << 16 |
                                 std::uint64_t{2} << 32 | std::uint64_t{0xec} << 40 |
                                 (M::handlers >> 16) << 48);
    m.enter_user();
    m.put_code(M::user_code, {0x9a, 0, 0, 0, 0, M::spare | 3, 0});
    m.put(M::stack3, std::uint32_t{0x111});
    m.put(M::stack3 + 4, std::uint32_t{0x222});
    m.run();
    EXPECT_EQ(m.vector(), 0x80u);
    EXPECT_EQ(m.state.gpr[RSP], M::stack0 - 24);
    EXPECT_EQ(m.word32(M::stack0 - 8), M::stack3);
    EXPECT_EQ(m.word32(M::stack0 - 12), 0x222u);
    EXPECT_EQ(m.word32(M::stack0 - 16), 0x111u);
    EXPECT_EQ(m.word32(M::stack0 - 20), M::code3_32);
    EXPECT_EQ(m.word32(M::stack0 - 24), M::user_code + 7);
}

TEST(Protected, RetfToOuterCodeDropsInnerSegments)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0xcb});
    const std::array<std::uint32_t, 4> frame{M::user_code, M::code3_32, M::stack3, M::data3};
    for (std::uint32_t i = 0; i < 4; ++i) m.put(0x30000 + 4 * i, frame[i]);
    m.put_code(M::user_code, {0x90, 0xf4});  // the HLT faults in ring 3
    m.run(2);
    EXPECT_EQ(m.state.cpl(), 3u);
    EXPECT_EQ(m.state.gpr[RSP], M::stack3);
    EXPECT_TRUE(m.state.segments[x86::DS].unusable());
    m.go_on();
    EXPECT_EQ(m.vector(), 13u);
}

TEST(Protected, TaskSwitchByCallAndBack)
{
    M m{Mode::protected32};
    m.put(M::tss_b + x86::tss32::EIP, static_cast<std::uint32_t>(M::user_code));
    m.put(M::tss_b + x86::tss32::EFLAGS, std::uint32_t{2});
    m.put(M::tss_b + x86::tss32::EAX, std::uint32_t{0x1234});
    m.put(M::tss_b + x86::tss32::EAX + 16, std::uint32_t{0x33000});  // ESP
    const std::array<std::uint16_t, 6> selectors{M::data0, M::code32, M::data0, M::data0, 0, 0};
    for (unsigned i = 0; i < 6; ++i) m.put(M::tss_b + x86::tss32::ES + 4 * i, selectors[i]);
    m.put_code(M::code, {0x9a, 0, 0, 0, 0, M::tss_b_selector, 0, 0xf4});
    m.put_code(M::user_code, {0xcf});  // iret: NT is set
    m.state.gpr[x86::RAX] = 0x99;
    m.run(1);
    EXPECT_EQ(m.state.rip, M::user_code);
    EXPECT_EQ(m.state.gpr[x86::RAX], 0x1234u);
    EXPECT_EQ(m.state.tr.selector, M::tss_b_selector);
    EXPECT_NE(m.state.rflags & x86::rflags::NT, 0u);
    EXPECT_NE(m.state.cr0 & x86::cr0::TS, 0u);
    EXPECT_EQ(m.word16(M::tss_b), M::tss_selector);
    EXPECT_EQ(m.get<std::uint8_t>(M::gdt + M::tss_b_selector + 5), 0x8b);
    m.go_on();
    EXPECT_EQ(m.state.rip, M::code + 8);
    EXPECT_EQ(m.state.gpr[x86::RAX], 0x99u);
    EXPECT_EQ(m.get<std::uint8_t>(M::gdt + M::tss_b_selector + 5), 0x89);
    EXPECT_EQ(m.state.rflags & x86::rflags::NT, 0u);
}

TEST(Protected, FaultOfTheNewTaskIsTakenThere)
{
    M m{Mode::protected32};
    m.put(M::tss_b + x86::tss32::EIP, static_cast<std::uint32_t>(M::user_code));
    m.put(M::tss_b + x86::tss32::EAX + 16, std::uint32_t{0x33000});
    m.put(M::tss_b + x86::tss32::ES + 4, M::code0);
    m.put(M::tss_b + x86::tss32::ES + 8, M::data0);
    m.put(M::tss_b + x86::tss32::ES + 12, std::uint16_t{0x1f8});  // bad DS
    m.put_code(M::code, {0xea, 0, 0, 0, 0, M::tss_b_selector, 0});
    m.run();
    EXPECT_EQ(m.vector(), 10u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP]), 0x1f8u);
    EXPECT_EQ(m.word32(m.state.gpr[RSP] + 4), M::user_code);
    EXPECT_EQ(m.state.tr.selector, M::tss_b_selector);
}

TEST(Protected, SegmentLoadChecks)
{
    struct Case {
        std::uint16_t selector;
        unsigned modrm;  // mov sreg, ax
        unsigned vector;
        std::uint32_t error;
    };
    const std::array cases{
        Case{0x1f8, 0xd8, 13, 0x1f8}, Case{M::absent, 0xd8, 11, M::absent},
        Case{M::absent, 0xd0, 12, M::absent}, Case{M::data3, 0xd0, 13, M::data3 & 0xfffc},
        Case{0, 0xd0, 13, 0}, Case{M::tss_selector, 0xd8, 13, M::tss_selector},
        Case{0x0c, 0xd8, 13, 0x0c},
    };
    for (const Case& c : cases) {
        M m{Mode::protected32};
        m.put_code(M::code, {0x8e, c.modrm});
        m.state.gpr[x86::RAX] = c.selector;
        m.run();
        EXPECT_EQ(m.vector(), c.vector) << c.selector;
        EXPECT_EQ(m.word32(m.state.gpr[RSP]), c.error) << c.selector;
    }
}

// ---- 64-bit mode -------------------------------------------------------------------------------

TEST(Long, FaultAlignsTheStackAndPushesFiveWords)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x0f, 0x0b});
    m.state.gpr[RSP] = 0x30007;
    m.run();
    EXPECT_EQ(m.vector(), 6u);
    EXPECT_EQ(m.state.gpr[RSP], 0x30000u - 40);
    EXPECT_EQ(m.word64(0x30000 - 8), M::data0);
    EXPECT_EQ(m.word64(0x30000 - 16), 0x30007u);
    EXPECT_EQ(m.word64(0x30000 - 40), M::code);
    EXPECT_EQ(m.state.segments[x86::SS].selector, M::data0);
}

TEST(Long, UserFaultUsesRsp0AndANullStackSegment)
{
    M m{Mode::long64};
    m.enter_user();
    m.put_code(M::user_code, {0xf4});
    m.run();
    EXPECT_EQ(m.vector(), 13u);
    EXPECT_EQ(m.state.gpr[RSP], M::stack0 - 48);
    EXPECT_EQ(m.state.segments[x86::SS].selector, 0u);
    EXPECT_EQ(m.state.cpl(), 0u);
}

TEST(Long, InterruptStackTable)
{
    M m{Mode::long64};
    m.set_gate(6, M::code0, 0xe, 0, 1);
    m.put_code(M::code, {0x0f, 0x0b});
    m.run();
    EXPECT_EQ(m.vector(), 6u);
    EXPECT_EQ(m.state.gpr[RSP], M::ist_stack - 40);
}

TEST(Long, IretqToUserAndCompatibility)
{
    for (const std::uint16_t selector : {M::code3_64, M::code3_32}) {
        M m{Mode::long64};
        m.put_code(M::code, {0x48, 0xcf});
        m.put_code(M::user_code, {0x90, 0x0f, 0x0b});
        const std::array<std::uint64_t, 5> frame{M::user_code, selector, 0x202, M::stack3, M::data3};
        for (std::uint64_t i = 0; i < 5; ++i) m.put(0x30000 + 8 * i, frame[i]);
        m.run(2);
        EXPECT_EQ(m.state.cpl(), 3u);
        EXPECT_EQ(m.state.code64(), selector == M::code3_64);
        EXPECT_EQ(m.state.gpr[RSP], M::stack3);
        m.go_on();
        EXPECT_EQ(m.vector(), 6u);
        EXPECT_EQ(m.word64(M::stack0 - 32), selector);
    }
}

TEST(Long, IretqToANonCanonicalAddressFaultsBeforeLeaving)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x48, 0xcf});
    const std::array<std::uint64_t, 5> frame{1ull << 47, M::code3_64, 0x202, M::stack3, M::data3};
    for (std::uint64_t i = 0; i < 5; ++i) m.put(0x30000 + 8 * i, frame[i]);
    m.run();
    EXPECT_EQ(m.vector(), 13u);
    EXPECT_EQ(m.word64(m.state.gpr[RSP]), 0u);
    EXPECT_EQ(m.word64(m.state.gpr[RSP] + 8), M::code);
}

TEST(Long, IretWithNestedTaskFlagFaults)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x48, 0xcf});
    m.state.rflags |= x86::rflags::NT;
    m.run();
    EXPECT_EQ(m.vector(), 13u);
}

TEST(Long, FarJumpThroughMemoryHasA32BitOffset)
{
    M m{Mode::long64};
    m.put_code(M::code, {0xff, 0x2c, 0x25, 0, 0, 4, 0});  // jmp far [0x40000]
    m.put(M::data, static_cast<std::uint32_t>(M::user_code));
    m.put(M::data + 4, M::code0);
    m.put_code(M::user_code, {0xf4});
    m.run();
    EXPECT_EQ(m.state.rip, M::user_code + 1);
}

TEST(Long, SyscallAndSysret)
{
    M m{Mode::long64};
    m.enter_user();
    m.put_code(M::user_code, {0x0f, 0x05, 0xf4});
    m.put_code(M::code, {0x48, 0x0f, 0x07});
    m.state.star = std::uint64_t{M::code0} << 32 | std::uint64_t{0x1b} << 48;
    m.state.lstar = M::code;
    m.state.fmask = 0x200;
    m.state.rflags = 0x202;
    m.run(1);
    EXPECT_EQ(m.state.rip, M::code);
    EXPECT_EQ(m.state.cpl(), 0u);
    EXPECT_EQ(m.state.gpr[x86::RCX], M::user_code + 2);
    EXPECT_EQ(m.state.gpr[x86::R11], 0x202u);
    EXPECT_EQ(m.state.rflags & 0x200, 0u);
    m.go_on(1);
    EXPECT_EQ(m.state.rip, M::user_code + 2);
    EXPECT_EQ(m.state.cpl(), 3u);
    EXPECT_EQ(m.state.segments[x86::CS].selector, 0x2bu);
    EXPECT_EQ(m.state.segments[x86::SS].selector, 0x23u);
    EXPECT_NE(m.state.rflags & 0x200, 0u);
}

TEST(Long, ExternalInterruptAndNmi)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x90, 0xf4, 0x90});
    m.state.rflags = 0x202;
    m.run();
    EXPECT_EQ(m.state.rip, M::code + 2);
    ASSERT_TRUE(m.interpreter->interruptible());
    m.interpreter->deliver_interrupt(0x50);
    m.go_on();
    EXPECT_EQ(m.vector(), 0x50u);
    EXPECT_EQ(m.word64(m.state.gpr[RSP]), M::code + 2);
    EXPECT_FALSE(m.interpreter->interruptible());
    m.interpreter->deliver_nmi();
    m.go_on();
    EXPECT_EQ(m.vector(), 2u);
    EXPECT_FALSE(m.interpreter->nmi_allowed());
}

TEST(Long, InterruptShadow)
{
    M m{Mode::long64};
    m.put_code(M::code, {0xfb, 0x90, 0x90, 0xf4});
    m.run(1);
    EXPECT_FALSE(m.interpreter->interruptible());
    m.go_on(1);
    EXPECT_TRUE(m.interpreter->interruptible());
}

TEST(Long, SingleStepAndBreakpoints)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x90, 0x90, 0xf4});
    m.state.rflags |= x86::rflags::TF;
    m.run();
    EXPECT_EQ(m.vector(), 1u);
    EXPECT_EQ(m.word64(m.state.gpr[RSP]), M::code + 1);
    EXPECT_NE(m.state.dr6 & x86::dr6::BS, 0u);

    M execute{Mode::long64};
    execute.put_code(M::code, {0x90, 0x90, 0xf4});
    execute.state.dr[0] = M::code + 1;
    execute.state.dr7 = x86::dr7::FIXED | 1;
    execute.run();
    EXPECT_EQ(execute.vector(), 1u);
    EXPECT_EQ(execute.word64(execute.state.gpr[RSP]), M::code + 1);
    EXPECT_EQ(execute.state.dr6 & 0xf, 1u);

    M write{Mode::long64};
    write.put_code(M::code, {0x88, 0x07, 0x90, 0xf4});  // mov [rdi], al
    write.state.gpr[x86::RDI] = M::data + 2;
    write.state.dr[1] = M::data;
    write.state.dr7 = x86::dr7::FIXED | 4 | 0xdu << 20;  // DR1: writes, 4 bytes
    write.run();
    EXPECT_EQ(write.vector(), 1u);
    EXPECT_EQ(write.word64(write.state.gpr[RSP]), M::code + 2);
    EXPECT_EQ(write.state.dr6 & 0xf, 2u);
}

TEST(Long, DebugExceptionWaitsForTheInstructionAfterMovSs)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x8e, 0xd0, 0x90, 0x90, 0xf4});  // mov ss, eax
    m.state.gpr[x86::RAX] = M::data0;
    m.state.rflags |= x86::rflags::TF;
    m.run();
    EXPECT_EQ(m.vector(), 1u);
    EXPECT_EQ(m.word64(m.state.gpr[RSP]), M::code + 3);
}

}  // namespace
}  // namespace doppel::engine::interpret
