// Instructions that some KVMs cannot emulate: whoever runs them, the result is the same.
#include <chrono>

#include "bare_guest.h"
#include "engine/kvm/accesses.h"
#include "engine/kvm/fallback.h"

namespace doppel::engine {
namespace {

class KvmFallback : public BareGuest {};

TEST_F(KvmFallback, Cmpxchg16b)
{
    // lock cmpxchg16b [rdi]; setz al; out 0x10, al
    code(0x6000, {0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0x0f, 0x94, 0xc0, 0xe6, 0x10});
    poke(0x7000, std::uint64_t{0x1111});
    poke(0x7008, std::uint64_t{0x2222});
    x86::CpuState state = long_mode(0x6000);
    state.gpr[x86::RDI] = 0x7000;
    state.gpr[x86::RAX] = 0x1111;
    state.gpr[x86::RDX] = 0x2222;
    state.gpr[x86::RBX] = 0x3333;
    state.gpr[x86::RCX] = 0x4444;
    vcpu_->set_state(state);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 1});
    EXPECT_EQ(peek<std::uint64_t>(0x7000), 0x3333u);
    EXPECT_EQ(peek<std::uint64_t>(0x7008), 0x4444u);
}

TEST_F(KvmFallback, Int3)
{
    code(0x6000, {0xcc, 0xe6, 0x10});
    code(0x6100, {0xe6, 0x11, 0x48, 0xcf});  // out 0x11, al; iretq
    x86::CpuState state = long_mode(0x6000);
    gate(3, 0x6100);
    state.gpr[x86::RAX] = 5;
    vcpu_->set_state(state);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x11, 1, 5});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 5});
    EXPECT_EQ(vcpu_->state().gpr[x86::RSP], 0x8000u);
}

TEST_F(KvmFallback, StacAndXgetbvFaultOrRunAsCpuidSays)
{
    // stac; clac; out 0x10, al. SMAP is not offered by every KVM: then #UD, at 0x6100.
    code(0x6000, {0x0f, 0x01, 0xcb, 0x0f, 0x01, 0xca, 0xe6, 0x10});
    code(0x6100, {0xb0, 0x06, 0xe6, 0x11});
    x86::CpuState state = long_mode(0x6000);
    gate(6, 0x6100);
    vcpu_->set_state(state);
    const Exit exit = vcpu_->run();
    EXPECT_TRUE(exit == (Exit{IoWriteExit{0x10, 1, 0}}) || exit == (Exit{IoWriteExit{0x11, 1, 6}}))
        << describe(exit);

    // xgetbv without OSXSAVE is #UD wherever it runs.
    code(0x6200, {0x31, 0xc9, 0x0f, 0x01, 0xd0, 0xe6, 0x10});
    state.rip = 0x6200;
    vcpu_->set_state(state);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x11, 1, 6});
}

TEST_F(KvmFallback, RunsOfStopsStayInTheInterpreter)
{
    // 20000 times: lock cmpxchg16b [rdi]; dec r8; jnz. Then a read from a device and out.
    code(0x6000, {0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0x49, 0xff, 0xc8, 0x75, 0xf6, 0xe4, 0x60, 0xe6, 0x10});
    x86::CpuState state = long_mode(0x6000);
    state.gpr[x86::RDI] = 0x7000;
    state.gpr[x86::R8] = 20000;
    vcpu_->set_state(state);
    EXPECT_EXIT_IS(vcpu_->run(), IoReadExit{0x60, 1});
    vcpu_->complete_read(0x33);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0x33});
    const std::uint64_t stops = counter("kvm.emulation_failures");
    if (stops == 0) GTEST_SKIP() << "this KVM runs cmpxchg16b itself";
    EXPECT_LT(stops, 2000u);
    RecordProperty("stops", std::to_string(stops));
}

TEST_F(KvmFallback, InterruptControllersStayKvms)
{
    // PIC set-up, each step behind a cmpxchg16b: ICW1-4 with base 0x30, mask, then read it back.
    code(0x6000, {0xb0, 0x11, 0xe6, 0x20, 0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb0, 0x30, 0xe6, 0x21,
                  0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,
                  0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb0, 0xef, 0xe6, 0x21,
                  0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xe4, 0x21, 0xe6, 0x10});
    // The I/O APIC's version register: mov ebx, 0xfec00000; mov dword [rbx], 1; cmpxchg16b;
    // mov eax, [rbx+0x10]; out 0x10, al
    code(0x602c, {0xbb, 0x00, 0x00, 0xc0, 0xfe, 0xc7, 0x03, 0x01, 0x00, 0x00, 0x00,
                  0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0x8b, 0x43, 0x10, 0xe6, 0x10});
    x86::CpuState state = long_mode(0x6000);
    // 0xfec00000 to itself, with a 2-MiB page.
    poke(0x2018, std::uint64_t{0xa007});
    poke(0xaff8 - 8 * 9, std::uint64_t{0xfec00087});
    state.gpr[x86::RDI] = 0x7000;
    vcpu_->set_state(state);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0xef});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0x11});
}

TEST_F(KvmFallback, DeviceAccessesAndCodeChangesAcrossTheBorder)
{
    // 50 rounds of: cmpxchg16b; in al, 0x60; out 0x10, al; and code that KVM or the interpreter
    // rewrites: inc byte [0x6100] (the immediate of "mov bl, imm8" there); jmp 0x60ff.
    code(0x6000, {0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xe4, 0x60, 0xe6, 0x10,
                  0xfe, 0x04, 0x25, 0x00, 0x61, 0x00, 0x00, 0xe9, 0xea, 0x00, 0x00, 0x00});
    // 0x60ff: mov bl, 0; xchg eax, ebx; out 0x11, al; xchg eax, ebx; jmp 0x6000
    code(0x60ff, {0xb3, 0x00, 0x93, 0xe6, 0x11, 0x93, 0xe9, 0xf6, 0xfe, 0xff, 0xff});
    x86::CpuState state = long_mode(0x6000);
    state.gpr[x86::RDI] = 0x7000;
    vcpu_->set_state(state);
    for (std::uint64_t i = 1; i <= 50; ++i) {
        EXPECT_EXIT_IS(vcpu_->run(), IoReadExit{0x60, 1});
        vcpu_->complete_read(i * 3);
        EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, (i * 3) & 0xff});
        EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x11, 1, i});
        if (HasFailure()) break;
    }
}

TEST(StayLength, DoublesInRunsAndShrinksWhenRare)
{
    using kvm::StayLength;
    StayLength length;
    StayLength::Time now{std::chrono::seconds{1}};
    EXPECT_EQ(length.begin(now), StayLength::minimum);
    for (std::uint64_t expected = 2 * StayLength::minimum; expected < 10000; expected *= 2) {
        length.end(now);
        now += std::chrono::microseconds{100};
        EXPECT_EQ(length.begin(now), expected);
    }
    length.end(now);
    now += std::chrono::seconds{1};
    const std::uint64_t shrunk = length.begin(now);
    EXPECT_LT(shrunk, 5000u);
    for (int i = 0; i < 40; ++i) {
        length.end(now);
        now += std::chrono::microseconds{1};
        EXPECT_LE(length.begin(now), StayLength::maximum);
    }
}

TEST(PendingAccesses, SplitsOddSizes)
{
    kvm::PendingAccesses accesses;
    std::array<std::byte, 8> data{std::byte{1}, std::byte{2}, std::byte{3}};
    accesses.start_mmio(base::Gpa{0x1000}, true, std::span{data}.first(3));
    EXPECT_EXIT_IS(accesses.next().value(), MmioWriteExit{base::Gpa{0x1000}, 2, 0x0201});
    EXPECT_EXIT_IS(accesses.next().value(), MmioWriteExit{base::Gpa{0x1002}, 1, 3});
    EXPECT_FALSE(accesses.next());
    accesses.start_io(0x10, 2, false, std::span{data}.first(4));
    EXPECT_EXIT_IS(accesses.next().value(), IoReadExit{0x10, 2});
    accesses.complete_read(0xbbaa);
    EXPECT_EXIT_IS(accesses.next().value(), IoReadExit{0x10, 2});
    accesses.complete_read(0xddcc);
    EXPECT_FALSE(accesses.next());
    EXPECT_EQ(data[0], std::byte{0xaa});
    EXPECT_EQ(data[3], std::byte{0xdd});
    accesses.complete_read(1);  // nothing is waiting
}

}  // namespace
}  // namespace doppel::engine
