#include <gtest/gtest.h>

#include "thunk_machine.h"

namespace doppel::engine::interpret {
namespace {

using x86::Vector;

constexpr std::uint64_t data = ThunkMachine::data, hole = ThunkMachine::hole;

TEST(Thunk, AddsAndKeepsTheUpperHalf)
{
    ThunkMachine m;
    m.set_vector<float>(1, {1, 2, 3, 4, 5, 6, 7, 8});
    m.set_vector<float>(2, {10, 20, 30, 40});
    ASSERT_EQ(m.run("0f58ca"), Flow::next);  // addps xmm1, xmm2
    EXPECT_EQ(m.vector_element<float>(1, 3), 44);
    EXPECT_EQ(m.vector_element<float>(1, 4), 5);
    ASSERT_EQ(m.run("c5f058ca"), Flow::next);  // vaddps xmm1, xmm1, xmm2
    EXPECT_EQ(m.vector_element<float>(1, 3), 84);
    EXPECT_EQ(m.vector_element<float>(1, 4), 0);
}

TEST(Thunk, MemoryOperandsAreTheGuests)
{
    ThunkMachine m;
    m.core->gpr[x86::RAX] = data + 4;
    m.poke<float>(data + 4, 0.5f);
    m.set_vector<float>(1, {1});
    ASSERT_EQ(m.run("f30f5808"), Flow::next);  // addss xmm1, [rax]
    EXPECT_EQ(m.vector_element<float>(1, 0), 1.5f);
    ASSERT_EQ(m.run("f30f114810"), Flow::next);  // movss [rax+16], xmm1
    EXPECT_EQ(m.peek<float>(data + 20), 1.5f);
}

TEST(Thunk, StackPointerIsAnOperandLikeAnyOther)
{
    ThunkMachine m;
    m.core->gpr[x86::RSP] = 0xff00;
    ASSERT_EQ(m.run("f3480fb8e4"), Flow::next);  // popcnt rsp, rsp
    EXPECT_EQ(m.core->gpr[x86::RSP], 8u);
    m.core->gpr[x86::RSP] = 0x1234;
    ASSERT_EQ(m.run("66480f6ecc"), Flow::next);  // movq xmm1, rsp
    EXPECT_EQ(m.vector_element<std::uint64_t>(1, 0), 0x1234u);
    m.core->gpr[x86::RDX] = 3;
    ASSERT_EQ(m.run("c4e2dbf6e4"), Flow::next);  // mulx rsp, rsp, rsp
    EXPECT_EQ(m.core->gpr[x86::RSP], 0u);
}

TEST(Thunk, MisalignedOperandIsGeneralProtection)
{
    ThunkMachine m;
    m.core->gpr[x86::RAX] = data + 8;
    ASSERT_EQ(m.run("0f2808"), Flow::fault);  // movaps xmm1, [rax]
    EXPECT_EQ(m.core->fault, x86::make_fault(Vector::GP, 0));
    ASSERT_EQ(m.run("0f5808"), Flow::fault);  // addps xmm1, [rax]: the host's own fault
    EXPECT_EQ(m.core->fault, x86::make_fault(Vector::GP, 0));
    ASSERT_EQ(m.run("c5f05808"), Flow::next);  // vaddps has no alignment
    ASSERT_EQ(m.run("0f1008"), Flow::next);    // movups
}

TEST(Thunk, PageFaultsNameTheGuestsAddress)
{
    ThunkMachine m;
    m.core->gpr[x86::RAX] = hole - 8;
    ASSERT_EQ(m.run("0f1008"), Flow::fault);
    EXPECT_EQ(m.core->fault.vector, Vector::PF);
    EXPECT_EQ(m.core->fault.address, hole);
    m.poke<std::uint64_t>(hole - 8, 0x5555);
    ASSERT_EQ(m.run("0f1108"), Flow::fault);
    EXPECT_EQ(m.core->fault.error_code, x86::page_fault::W);
    EXPECT_EQ(m.peek<std::uint64_t>(hole - 8), 0x5555u);
}

TEST(Thunk, UnmaskedSimdExceptionKeepsItsFlag)
{
    ThunkMachine m;
    m.set_mxcsr(0x1f80 & ~0x200u);  // divide by zero unmasked
    m.set_vector<float>(1, {1, 1, 1, 1});
    m.set_vector<float>(2, {0, 1, 1, 1});
    ASSERT_EQ(m.run("0f5eca"), Flow::fault);  // divps
    EXPECT_EQ(m.core->fault.vector, Vector::XM);
    EXPECT_EQ(m.mxcsr(), 0x1d80u | 4u);
    EXPECT_EQ(m.vector_element<float>(1, 1), 1);
    m.core->state.cr4 &= ~x86::cr4::OSXMMEXCPT;
    ASSERT_EQ(m.run("0f5eca"), Flow::fault);
    EXPECT_EQ(m.core->fault.vector, Vector::UD);
    m.set_mxcsr(0x1f80);
    ASSERT_EQ(m.run("0f5eca"), Flow::next);
    EXPECT_EQ(m.mxcsr(), 0x1f84u);
    unsigned host = 0;
    asm volatile("stmxcsr %0" : "=m"(host));
    EXPECT_EQ(host & 0xffc0u, 0x1f80u);
}

TEST(Thunk, ControlRegistersDecide)
{
    ThunkMachine m;
    auto& state = m.core->state;
    const auto fault_of = [&m](std::string_view text) {
        return m.run(text) == Flow::fault ? m.core->fault.vector : Vector{255};
    };
    state.cr0 |= x86::cr0::TS;
    EXPECT_EQ(fault_of("0f58ca"), Vector::NM);
    EXPECT_EQ(fault_of("c5f058ca"), Vector::NM);
    EXPECT_EQ(fault_of("d9e8"), Vector::NM);  // fld1
    EXPECT_EQ(fault_of("9b"), Vector::NM);    // fwait: MP is set
    EXPECT_EQ(fault_of("0f77"), Vector::NM);  // emms
    EXPECT_EQ(fault_of("f3480fb8c1"), Vector{255});  // popcnt does not care
    state.cr0 &= ~x86::cr0::MP;
    EXPECT_EQ(fault_of("9b"), Vector{255});
    state.cr0 = (state.cr0 & ~x86::cr0::TS) | x86::cr0::EM;
    EXPECT_EQ(fault_of("0f58ca"), Vector::UD);
    EXPECT_EQ(fault_of("d9e8"), Vector::NM);
    EXPECT_EQ(fault_of("0f77"), Vector::UD);
    state.cr0 &= ~x86::cr0::EM;
    state.cr4 &= ~x86::cr4::OSFXSR;
    EXPECT_EQ(fault_of("0f58ca"), Vector::UD);
    EXPECT_EQ(fault_of("c5f058ca"), Vector{255});
    state.xcr0 = x86::xcr0::X87 | x86::xcr0::SSE;
    EXPECT_EQ(fault_of("c5f058ca"), Vector::UD);
    state.xcr0 |= x86::xcr0::AVX;
    EXPECT_EQ(fault_of("c5f058ca"), Vector{255});
    EXPECT_EQ(fault_of("62f1744858ca"), Vector::UD);  // vaddps zmm1
    EXPECT_EQ(fault_of("c5ec41cb"), Vector::UD);      // kandw k1, k2, k3
    state.cr4 &= ~x86::cr4::OSXSAVE;
    EXPECT_EQ(fault_of("c5f058ca"), Vector::UD);
    EXPECT_EQ(fault_of("c4e278f3c9"), Vector{255});  // blsr: general registers only
}

TEST(Thunk, PendingX87ExceptionIsReportedByTheNextWaitingInstruction)
{
    ThunkMachine m;
    m.poke<std::uint16_t>(data, 0x37b);  // divide by zero unmasked
    m.core->gpr[x86::RAX] = data;
    ASSERT_EQ(m.run("dbe3"), Flow::next);  // fninit
    ASSERT_EQ(m.run("d928"), Flow::next);  // fldcw [rax]
    ASSERT_EQ(m.run("d9ee"), Flow::next);  // fldz
    ASSERT_EQ(m.run("d9e8"), Flow::next);  // fld1
    ASSERT_EQ(m.run("d8f1"), Flow::next);  // fdiv st0, st1: 1/0
    ASSERT_EQ(m.run("dd7802"), Flow::next);  // fnstsw [rax+2] does not wait
    EXPECT_EQ(m.peek<std::uint16_t>(data + 2) & 0x84, 0x84);
    ASSERT_EQ(m.run("9b"), Flow::fault);
    EXPECT_EQ(m.core->fault.vector, Vector::MF);
    ASSERT_EQ(m.run("d9e8"), Flow::fault);
    EXPECT_EQ(m.core->fault.vector, Vector::MF);
    ASSERT_EQ(m.run("dbe2"), Flow::next);  // fnclex
    ASSERT_EQ(m.run("9b"), Flow::next);
}

TEST(Thunk, X87PointersAreTheGuests)
{
    ThunkMachine m;
    m.core->gpr[x86::RAX] = data;
    m.core->state.rip = 0x4321;
    m.poke<double>(data + 8, 1.25);
    ASSERT_EQ(m.run("dd4008"), Flow::next);  // fld qword [rax+8]
    EXPECT_EQ(thunk::xsave_get<std::uint64_t>(m.core->state.xsave, thunk::xsave_fip), 0x4321u);
    ASSERT_EQ(m.run("db7810"), Flow::next);  // fstp tbyte [rax+16]
    EXPECT_EQ(m.peek<std::uint64_t>(data + 16), 0xa000000000000000u);
    EXPECT_EQ(m.peek<std::uint16_t>(data + 24), 0x3fff);
}

TEST(Thunk, MaskedLoadTouchesOnlyEnabledElements)
{
    ThunkMachine m;
    m.core->gpr[x86::RAX] = hole - 16;
    for (unsigned i = 0; i < 4; ++i) m.poke<float>(hole - 16 + 4 * i, static_cast<float>(i + 1));
    m.set_vector<std::uint32_t>(2, {~0u, 0, ~0u, ~0u, 0, 0, 0, 0});
    ASSERT_EQ(m.run("c4e26d2c08"), Flow::next);  // vmaskmovps ymm1, ymm2, [rax]
    EXPECT_EQ(m.vector_element<float>(1, 0), 1);
    EXPECT_EQ(m.vector_element<float>(1, 1), 0);
    EXPECT_EQ(m.vector_element<float>(1, 3), 4);
    m.set_vector<std::uint32_t>(2, {~0u, 0, 0, 0, ~0u, 0, 0, 0});
    ASSERT_EQ(m.run("c4e26d2c08"), Flow::fault);
    EXPECT_EQ(m.core->fault.address, hole);
    // vmaskmovps [rax], ymm2, ymm1
    m.set_vector<std::uint32_t>(2, {0, ~0u, 0, 0, 0, 0, 0, 0});
    m.set_vector<float>(1, {9, 8, 7, 6, 5, 4, 3, 2});
    ASSERT_EQ(m.run("c4e26d2e08"), Flow::next);
    EXPECT_EQ(m.peek<float>(hole - 16), 1);
    EXPECT_EQ(m.peek<float>(hole - 12), 8);
    EXPECT_EQ(m.peek<float>(hole - 8), 3);
}

TEST(Thunk, OpmaskSuppressesFaults)
{
    ThunkMachine m;
    if (!m.cpuid.has(7, 0, 'b', 30)) GTEST_SKIP() << "no AVX-512 here";
    m.core->gpr[x86::RAX] = hole - 8;
    m.poke<float>(hole - 8, 1);
    m.poke<float>(hole - 4, 2);
    m.set_vector<float>(3, {10, 10, 10, 10});
    m.set_mask(1, 3);
    ASSERT_EQ(m.run("62f1644958 08"), Flow::next);  // vaddps zmm1{k1}, zmm3, [rax]
    EXPECT_EQ(m.vector_element<float>(1, 1), 12);
    m.set_mask(1, 4);
    ASSERT_EQ(m.run("62f164495808"), Flow::fault);
    EXPECT_EQ(m.core->fault.address, hole);
    // vpexpandd zmm1{k1}, [rax]: two elements in a row whatever their place.
    m.set_mask(1, 0x8001);
    ASSERT_EQ(m.run("62f27d498908"), Flow::next);
    EXPECT_EQ(m.vector_element<float>(1, 15), 2);
    // vcompressps [rax]{k1}, zmm1
    ASSERT_EQ(m.run("62f27d498a08"), Flow::next);
    EXPECT_EQ(m.peek<float>(hole - 4), 2);
    // vmovups [rax]{k1}, zmm1 with a mask that leaves the hole alone.
    m.set_mask(1, 2);
    m.set_vector<float>(1, {5, 6, 7});
    ASSERT_EQ(m.run("62f17c491108"), Flow::next);
    EXPECT_EQ(m.peek<float>(hole - 8), 1);
    EXPECT_EQ(m.peek<float>(hole - 4), 6);
    m.set_mask(1, 0);
    m.core->gpr[x86::RAX] = hole;
    ASSERT_EQ(m.run("62f17c491108"), Flow::next);
}

TEST(Thunk, GatherResumesAtTheElementThatFaulted)
{
    ThunkMachine m;
    m.core->gpr[x86::RAX] = data;
    for (unsigned i = 0; i < 8; ++i) m.poke<std::uint32_t>(data + 4 * i, 100 + i);
    const auto far = static_cast<std::uint32_t>((hole - data) / 4);
    m.set_vector<std::uint32_t>(2, {3, 1, far, 0, 0, 0, 0, 0});
    m.set_vector<std::uint32_t>(3, {~0u, ~0u, ~0u, 0, 0, 0, 0, ~0u});
    m.set_vector<std::uint32_t>(1, {1, 2, 3, 4, 5, 6, 7, 8});
    ASSERT_EQ(m.run("c4e265900c90"), Flow::fault);  // vpgatherdd ymm1, [rax+ymm2*4], ymm3
    EXPECT_EQ(m.core->fault.vector, Vector::PF);
    EXPECT_EQ(m.core->fault.address, hole);
    EXPECT_EQ(m.vector_element<std::uint32_t>(1, 0), 103u);
    EXPECT_EQ(m.vector_element<std::uint32_t>(3, 0), 0u);
    EXPECT_EQ(m.vector_element<std::uint32_t>(3, 2), ~0u);
    m.set_vector<std::uint32_t>(2, {3, 1, 5, far, far, far, far, 7});
    ASSERT_EQ(m.run("c4e265900c90"), Flow::next);
    EXPECT_EQ(m.vector_element<std::uint32_t>(1, 1), 101u);
    EXPECT_EQ(m.vector_element<std::uint32_t>(1, 2), 105u);
    EXPECT_EQ(m.vector_element<std::uint32_t>(1, 3), 4u);
    EXPECT_EQ(m.vector_element<std::uint32_t>(1, 7), 107u);
    for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(m.vector_element<std::uint32_t>(3, i), 0u);
}

TEST(Thunk, ByteMaskedStore)
{
    ThunkMachine m;
    m.core->gpr[x86::RDI] = hole - 4;
    m.poke<std::uint32_t>(hole - 4, 0);
    m.set_vector<std::uint8_t>(1, {1, 2, 3, 4, 5});
    m.set_vector<std::uint8_t>(2, {0x80, 0, 0x80, 0, 0});
    ASSERT_EQ(m.run("660ff7ca"), Flow::next);
    EXPECT_EQ(m.peek<std::uint32_t>(hole - 4), 0x00030001u);
    m.set_vector<std::uint8_t>(2, {0x80, 0, 0, 0, 0x80});
    ASSERT_EQ(m.run("660ff7ca"), Flow::fault);
    EXPECT_EQ(m.core->fault.address, hole);
}

TEST(Thunk, RealModeAnd16BitCode)
{
    ThunkMachine m;
    m.enter_legacy_mode(16, false);
    m.core->gpr[x86::RCX] = 0x1ffff;
    m.core->gpr[x86::RAX] = 0xaaaa0000;
    ASSERT_EQ(m.run("f30fb8c1"), Flow::next);  // popcnt ax, cx
    EXPECT_EQ(m.core->gpr[x86::RAX], 0xaaaa0010u);
    ASSERT_EQ(m.run("66f30fb8c1"), Flow::next);  // popcnt eax, ecx
    EXPECT_EQ(m.core->gpr[x86::RAX], 17u);
    m.core->gpr[x86::RBX] = 0x3000;
    m.core->gpr[x86::RSI] = 0x10;
    m.poke<float>(0x3010, 2.5f);
    ASSERT_EQ(m.run("f30f1008"), Flow::next);  // movss xmm1, [bx+si]
    EXPECT_EQ(m.vector_element<float>(1, 0), 2.5f);
    ASSERT_EQ(m.run("dd30"), Flow::next);  // fnsave, 94 bytes
    EXPECT_EQ(m.peek<std::uint16_t>(0x3010), 0x37f);
    ASSERT_EQ(m.run("c5f058ca"), Flow::fault);  // VEX
    EXPECT_EQ(m.core->fault.vector, Vector::UD);
    m.enter_legacy_mode(32, true);
    ASSERT_EQ(m.run("c5f058ca"), Flow::next);
    m.core->gpr[x86::RDX] = 0x80000001;
    ASSERT_EQ(m.run("c4e1f92aca"), Flow::fault) << "vcvtsi2sd is F2, this is undefined";
    ASSERT_EQ(m.run("c4e1fb2aca"), Flow::next);  // vcvtsi2sd xmm1, xmm0, edx: W is ignored
    EXPECT_EQ(m.vector_element<double>(1, 0), -2147483647.0);
}

// Everything that must never reach the host, whatever CPUID says.
TEST(Thunk, ForbiddenInstructionsAreUndefined)
{
    ThunkMachine m;
    const std::string_view forbidden[] = {
        "0fa2",        // cpuid
        "0f01d0",      // xgetbv
        "0f01d1",      // xsetbv
        "0f01ef",      // wrpkru
        "0f01ee",      // rdpkru
        "f3480faec0",  // rdfsbase rax
        "f3480faec8",  // rdgsbase rax
        "f3480faed0",  // wrfsbase rax
        "f3480faed8",  // wrgsbase rax
        "f30fc7f8",    // rdpid rax
        "0f01f9",      // rdtscp
        "0f31",        // rdtsc
        "0f33",        // rdpmc
        "660faef0",    // tpause eax
        "f20faef0",    // umwait eax
        "f30faef0",    // umonitor rax
        "0f05",        // syscall
        "0f34",        // sysenter
        "0f07",        // sysret
        "cd80",        // int 0x80
        "0f01e8",      // serialize
        "f30fae20",    // ptwrite [rax]

        "c4e2784900",  // ldtilecfg [rax]
        "c4e2794900",  // sttilecfg [rax]
        "c4e27849c0",  // tilerelease
        "c4e27b49c0",  // tilezero
        "f30f01e8",    // setssbsy
        "f30f1ec8",    // rdsspd eax
        "f3480faee8",  // incsspq rax
        "0f38f610",    // wrssd [rax], edx
        "f20f38f810",  // enqcmd
        "0f01c8",      // monitor
        "0f01c9",      // mwait
        "0f01d5",      // xend
        "0f01d6",      // xtest
        "c6f800",      // xabort
        "c7f800000000",  // xbegin
        "f20f01e8",    // xsusldtrk
        "f30f01ee",    // clui
        "f30f01ef",    // stui
        "f30fc7f0",    // senduipi rax
        "0f01c0",      // enclv
        "0f01cf",      // encls
        "0f01d7",      // enclu
        "0f01c1",      // vmcall
        "0f01d9",      // vmmcall
        "0f37",        // getsec
        "f30f0900",    // wbnoinvd
        "0f0b",        // ud2
        "0f0d00",      // a hint, not native: see below
        "660f3880 00", // invept
        "660f388200",  // invpcid
        "0fae38",      // clflush
        "660fae38",    // clflushopt
        "660fae30",    // clwb
        "0f01ca",      // clac
        "0f01cb",      // stac
        "f4",          // hlt
        "fa",          // cli
        "0f20c0",      // mov rax, cr0
        "0f32",        // rdmsr
        "0f30",        // wrmsr
        "f30f38dcc1",  // aesenc128kl / loadiwkey
        "8fe97812c0",  // llwpcb
        "f30fa7c0",    // xstore (PadLock)
        "0f0fc19e",    // 3DNow!
        "f20f79c1",    // SSE4A insertq
        "8fe878a2c1ff",  // XOP
        "c4e3f16801ff",  // FMA4
        "62f27b6844 08",  // vp2intersect
        "90", "f390", "8b00", "50", "c3", "e8 00000000",  // other families
    };
    for (const std::string_view text : forbidden) {
        if (text == "0f0d00") continue;
        EXPECT_EQ(m.run(text), Flow::fault) << text;
        EXPECT_EQ(m.core->fault.vector, Vector::UD) << text;
    }
    EXPECT_EQ(m.run("f0 0f58ca"), Flow::fault);  // LOCK
}

TEST(Thunk, FullCacheForgetsAndMakesAnew)
{
    ThunkMachine m;
    Op first;
    const Bytes shuffle = hex("660f70ca1b");  // pshufd xmm1, xmm2, 0x1b
    ASSERT_TRUE(m.lower(shuffle, first));
    std::memcpy(m.host(0x1000), shuffle.data(), shuffle.size());
    Op op;
    Bytes bytes = hex("c4e37146ca00");  // vperm2f128-like: many distinct immediates and registers
    bytes = hex("660f3a0fca00");        // palignr xmm, xmm, imm8
    for (unsigned reg = 0; reg < 64; ++reg) {
        for (unsigned imm = 0; imm < 256; ++imm) {
            for (const std::uint8_t opcode : {0x0f, 0x0e, 0x0b}) {
                bytes[3] = opcode;
                bytes[4] = static_cast<std::uint8_t>(0xc0 | reg);
                bytes[5] = static_cast<std::uint8_t>(imm);
                ASSERT_TRUE(m.lower(bytes, op));
            }
        }
    }
    EXPECT_GE(m.core->thunks->flushes(), 1u);
    m.set_vector<std::uint32_t>(2, {1, 2, 3, 4});
    m.core->state.rip = 0x1000;
    ASSERT_EQ(first.run(*m.core, first), Flow::next);
    EXPECT_EQ(m.vector_element<std::uint32_t>(1, 0), 4u);
}

}  // namespace
}  // namespace doppel::engine::interpret
