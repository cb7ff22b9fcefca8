// Control registers, MSRs, port rights, table registers: what is refused and what sticks.
#include "system_machine.h"
#include "x86/msr.h"

namespace doppel::engine::interpret {
namespace {

using Mode = SystemMachine::Mode;
using M = SystemMachine;

// The vector that a WRMSR of `value` ends in; nothing when it retires.
std::optional<unsigned> write_msr(M& m, std::uint32_t index, std::uint64_t value)
{
    m.put_code(M::code, {0x0f, 0x30, 0xf4});
    m.state.rip = M::code;
    m.state.gpr[x86::RSP] = 0x30000;
    m.state.events.activity = x86::Activity::running;
    m.state.gpr[x86::RCX] = index;
    m.state.gpr[x86::RAX] = value & 0xffffffff;
    m.state.gpr[x86::RDX] = value >> 32;
    m.run();
    return m.vector();
}

TEST(Msr, RefusesWhatTheManualRefuses)
{
    namespace msr = x86::msr;
    constexpr std::uint64_t not_canonical = std::uint64_t{1} << 47;
    struct Case {
        std::uint32_t index;
        std::uint64_t value;
        bool refused;
    };
    const std::array cases{
        Case{msr::IA32_LSTAR, not_canonical, true},
        Case{msr::IA32_LSTAR, 0xffff800000000000, false},
        Case{msr::IA32_KERNEL_GS_BASE, not_canonical, true},
        Case{msr::IA32_GS_BASE, not_canonical, true},
        Case{msr::IA32_SYSENTER_EIP, not_canonical, true},
        Case{msr::IA32_FMASK, std::uint64_t{1} << 32, true},
        Case{msr::IA32_EFER, x86::efer::SCE, true},  // LME off under paging
        Case{msr::IA32_EFER, x86::efer::LME | 2, true},
        Case{msr::IA32_EFER, x86::efer::LME | x86::efer::NXE, false},
        Case{msr::IA32_PAT, 0x0007040600070402, true},
        Case{msr::IA32_PAT, 0x0007040600070401, false},
        Case{msr::IA32_MTRR_DEF_TYPE, 0x802, true},
        Case{msr::IA32_MTRR_DEF_TYPE, 0xc06, false},
        Case{msr::IA32_MTRR_PHYSBASE0, 0x100, true},
        Case{msr::IA32_MTRR_FIX4K_C0000, 0x0202020202020202, true},
        Case{msr::IA32_MTRRCAP, 0, true},
        Case{msr::IA32_SPEC_CTRL, 0x401, false},  // IBRS, BHI_DIS_S
        Case{msr::IA32_SPEC_CTRL, 0x800, true},
        Case{0x12345, 0, true},
    };
    for (const Case& c : cases) {
        M m{Mode::long64};
        const auto vector = write_msr(m, c.index, c.value);
        EXPECT_EQ(vector.has_value(), c.refused) << std::hex << c.index << ' ' << c.value;
        if (c.refused) EXPECT_EQ(vector, 13u);
    }
}

TEST(Msr, ApicBaseIsTheEnvironmentsToRefuse)
{
    M m{Mode::long64};
    EXPECT_EQ(write_msr(m, x86::msr::IA32_APIC_BASE, 0xfee00900), std::nullopt);
    EXPECT_EQ(m.environment.apic_base, 0xfee00900u);
    m.environment.reject = true;
    EXPECT_EQ(write_msr(m, x86::msr::IA32_APIC_BASE, 1), 13u);
}

TEST(Msr, UnservedX2apicRegisterStopsBeforeTheInstruction)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x0f, 0x32});
    m.state.gpr[x86::RCX] = 0x802;
    EXPECT_EQ(m.run(), Interpreter::Stop::environment);
    EXPECT_EQ(m.state.rip, M::code);
}

TEST(Msr, TimeStampCounterAndItsAdjustMoveTogether)
{
    M m{Mode::long64};
    EXPECT_EQ(write_msr(m, x86::msr::IA32_TIME_STAMP_COUNTER, 1000), std::nullopt);
    EXPECT_EQ(m.state.tsc, 1000u);
    m.clock.advance(500);
    EXPECT_EQ(m.interpreter->state().tsc, 1500u);
    EXPECT_EQ(m.state.tsc_adjust, 1000u);
}

TEST(Msr, NeedsRingZero)
{
    M m{Mode::long64};
    m.enter_user();
    m.put_code(M::user_code, {0x0f, 0x32});
    m.run();
    EXPECT_EQ(m.vector(), 13u);
}

// mov crN, rax; hlt
std::optional<unsigned> write_cr(M& m, unsigned number, std::uint64_t value)
{
    m.put_code(M::code, {0x0f, 0x22, 0xc0 | number << 3, 0xf4});
    m.state.gpr[x86::RAX] = value;
    m.run();
    return m.vector();
}

TEST(ControlRegisters, RefusedCombinations)
{
    using namespace x86;
    struct Case {
        unsigned number;
        std::uint64_t set, clear;
    };
    const std::array cases{
        Case{0, 0, cr0::PE},                       // PG without PE
        Case{0, cr0::NW, 0},                       // NW without CD
        Case{0, 0, cr0::PG},                       // leaving paging in 64-bit code
        Case{0, std::uint64_t{1} << 32, 0},
        Case{3, std::uint64_t{1} << 60, 0},
        Case{4, 0, cr4::PAE},                      // PAE off in long mode
        Case{4, std::uint64_t{1} << 31, 0},
        Case{4, cr4::VMXE, 0},
    };
    for (const Case& c : cases) {
        M m{Mode::long64};
        const std::uint64_t now = c.number == 0 ? m.state.cr0 : c.number == 3 ? m.state.cr3 : m.state.cr4;
        EXPECT_EQ(write_cr(m, c.number, (now | c.set) & ~c.clear), 13u)
            << c.number << ' ' << std::hex << c.set << ' ' << c.clear;
        EXPECT_EQ(m.word64(m.state.gpr[RSP] + 8), M::code);
    }
}

TEST(ControlRegisters, LongModeIsEnteredWithPaging)
{
    M m{Mode::protected32};
    m.put(0x5000, std::uint64_t{0x6007});
    m.put(0x6000, std::uint64_t{0x7007});
    m.put(0x7000, std::uint64_t{0x87});
    m.state.cr3 = 0x5000;
    m.state.cr4 = x86::cr4::PAE;
    m.state.efer = x86::efer::LME;
    m.put_code(M::code, {0x0f, 0x22, 0xc0, 0xf4});
    m.state.gpr[x86::RAX] = m.state.cr0 | x86::cr0::PG;
    m.run();
    EXPECT_TRUE(m.state.long_mode());
    EXPECT_FALSE(m.state.code64());
    EXPECT_EQ(m.state.rip, M::code + 4);
}

TEST(ControlRegisters, PagingWithLmeNeedsPae)
{
    M m{Mode::protected32};
    m.state.efer = x86::efer::LME;
    EXPECT_EQ(write_cr(m, 0, m.state.cr0 | x86::cr0::PG), 13u);
}

TEST(ControlRegisters, GeneralDetect)
{
    M m{Mode::long64};
    m.put_code(M::code, {0x0f, 0x21, 0xc0});  // mov rax, dr0
    m.state.dr7 |= x86::dr7::GD;
    m.run();
    EXPECT_EQ(m.vector(), 1u);
    EXPECT_EQ(m.state.dr7 & x86::dr7::GD, 0u);
    EXPECT_NE(m.state.dr6 & x86::dr6::BD, 0u);
}

TEST(Ports, BitmapDecides)
{
    M m{Mode::protected32};
    m.enter_user();
    m.put_code(M::user_code, {0xe4, 0x60});  // in al, 0x60
    m.put(M::tss + 0x100 + 0x60 / 8, std::uint8_t{0});
    EXPECT_EQ(m.run(), Interpreter::Stop::exit);
    EXPECT_EQ(m.interpreter->exit(), (Exit{IoReadExit{0x60, 1}}));
    m.interpreter->complete_read(0x5a);
    m.go_on(1);
    EXPECT_EQ(m.state.gpr[x86::RAX] & 0xff, 0x5au);

    M refused{Mode::protected32};
    refused.enter_user();
    refused.put_code(M::user_code, {0xe4, 0x60});
    refused.put(M::tss + 0x100 + 0x60 / 8, std::uint8_t{1});
    refused.run();
    EXPECT_EQ(refused.vector(), 13u);
}

TEST(Ports, RepeatedInputExitsOncePerElement)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0xf3, 0x6c, 0xf4});  // rep insb
    m.state.gpr[x86::RCX] = 3;
    m.state.gpr[x86::RDX] = 0x3f8;
    m.state.gpr[x86::RDI] = M::data;
    auto stop = m.run();
    for (std::uint64_t value = 1; value <= 3; ++value) {
        ASSERT_EQ(stop, Interpreter::Stop::exit);
        ASSERT_EQ(m.interpreter->exit(), (Exit{IoReadExit{0x3f8, 1}}));
        m.interpreter->complete_read(value);
        stop = m.go_on();
    }
    EXPECT_EQ(m.state.rip, M::code + 3);
    EXPECT_EQ(m.word32(M::data), 0x030201u);
    EXPECT_EQ(m.state.gpr[x86::RCX], 0u);
}

TEST(Tables, LtrMarksBusyOnce)
{
    M m{Mode::protected32};
    m.put_code(M::code, {0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xd8});
    m.state.gpr[x86::RAX] = M::tss_b_selector;
    m.run();
    EXPECT_EQ(m.state.tr.selector, M::tss_b_selector);
    EXPECT_EQ(m.vector(), 13u);
    EXPECT_EQ(m.word32(m.state.gpr[x86::RSP]), M::tss_b_selector);
}

TEST(Tables, LarLslVerify)
{
    M m{Mode::protected32};
    m.enter_user();
    m.put_code(M::user_code, {0x0f, 0x02, 0xd8, 0x0f, 0x03, 0xc8});  // lar ebx, eax; lsl ecx, eax
    m.state.gpr[x86::RAX] = M::data3;
    m.run(2);
    EXPECT_EQ(m.state.gpr[x86::RBX], 0x00cff300u);
    EXPECT_EQ(m.state.gpr[x86::RCX], 0xffffffffu);
    EXPECT_NE(m.state.rflags & x86::rflags::ZF, 0u);

    m.state.gpr[x86::RAX] = M::data0;  // not visible from ring 3
    m.state.rip = M::user_code;
    m.run(1);
    EXPECT_EQ(m.state.gpr[x86::RBX], 0x00cff300u);
    EXPECT_EQ(m.state.rflags & x86::rflags::ZF, 0u);
}

}  // namespace
}  // namespace doppel::engine::interpret
