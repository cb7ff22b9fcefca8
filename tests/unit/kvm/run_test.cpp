#include <algorithm>
#include <atomic>
#include <thread>

#include "bare_guest.h"

namespace doppel::engine {
namespace {

using base::Gpa;

class KvmRun : public BareGuest {};

TEST_F(KvmRun, SaysWhatItCan)
{
    EXPECT_EQ(engine_->kind(), EngineKind::kvm);
    EXPECT_TRUE(engine_->capabilities().in_kernel_interrupts);
    EXPECT_FALSE(engine_->capabilities().instruction_budget);
    EXPECT_FALSE(engine_->capabilities().counts_instructions);
    EXPECT_GE(engine_->capabilities().max_vcpus, 1u);
    EXPECT_NE(engine_->interrupt_sink(), nullptr);
}

TEST_F(KvmRun, PortsInRealMode)
{
    // in al, 0x60; inc al; out 0x10, al; mov dx, 0x1234; out dx, ax; out dx, eax
    code(0x6000, {0xe4, 0x60, 0xfe, 0xc0, 0xe6, 0x10, 0xba, 0x34, 0x12, 0xef, 0x66, 0xef});
    x86::CpuState state = real_mode(0x6000);
    state.gpr[x86::RAX] = 0xaabbcc00;
    vcpu_->set_state(state);
    EXPECT_EXIT_IS(vcpu_->run(), IoReadExit{0x60, 1});
    vcpu_->complete_read(0x41);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0x42});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x1234, 2, 0xcc42});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x1234, 4, 0xaabbcc42});
    // The instruction whose exit was the last has been completed.
    EXPECT_EQ(vcpu_->state().rip, 0x600cu);
}

TEST_F(KvmRun, StringPortAccessesComeOneByOne)
{
    // cld; rep insb; mov si, 0x7000; mov cx, 3; rep outsw; out 0x10, al
    code(0x6000, {0xfc, 0xf3, 0x6c, 0xbe, 0x00, 0x70, 0xb9, 0x03, 0x00, 0xf3, 0x6f, 0xe6, 0x10});
    poke(0x7000, std::uint64_t{0x0006000500040003});
    x86::CpuState state = real_mode(0x6000);
    state.gpr[x86::RCX] = 5;
    state.gpr[x86::RDX] = 0x40;
    state.gpr[x86::RDI] = 0x7100;
    vcpu_->set_state(state);
    for (std::uint64_t i = 0; i < 5; ++i) {
        EXPECT_EXIT_IS(vcpu_->run(), IoReadExit{0x40, 1});
        vcpu_->complete_read(0x61 + i);
    }
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x40, 2, 3});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x40, 2, 4});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x40, 2, 5});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0});
    EXPECT_EQ(peek<std::uint64_t>(0x7100) & 0xffffffffff, 0x6564636261u);
    EXPECT_EQ(vcpu_->state().gpr[x86::RDI] & 0xffff, 0x7105u);
}

TEST_F(KvmRun, MmioAndRomInLongMode)
{
    // mov rbx, 0x180000; mov rax, [rbx]; mov [rbx+8], rax; mov word [rbx+16], 0x1234;
    // mov [0x100000], eax (ROM); mov ecx, [0x100000]; out 0x10, al
    code(0x6000, {0x48, 0xc7, 0xc3, 0x00, 0x00, 0x18, 0x00, 0x48, 0x8b, 0x03, 0x48, 0x89, 0x43, 0x08,
                  0x66, 0xc7, 0x43, 0x10, 0x34, 0x12, 0x89, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00,
                  0x8b, 0x0c, 0x25, 0x00, 0x00, 0x10, 0x00, 0xe6, 0x10});
    code(0x100000, {0x78, 0x56, 0x34, 0x12});
    vcpu_->set_state(long_mode(0x6000));
    EXPECT_EXIT_IS(vcpu_->run(), MmioReadExit{Gpa{0x180000}, 8});
    vcpu_->complete_read(0x1122334455667788);
    EXPECT_EXIT_IS(vcpu_->run(), MmioWriteExit{Gpa{0x180008}, 8, 0x1122334455667788});
    EXPECT_EXIT_IS(vcpu_->run(), MmioWriteExit{Gpa{0x180010}, 2, 0x1234});
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0x88});
    EXPECT_EQ(vcpu_->state().gpr[x86::RCX], 0x12345678u);
}

TEST_F(KvmRun, TripleFaultIsAShutdown)
{
    code(0x6000, {0x0f, 0x0b});  // ud2, without an IDT
    x86::CpuState state = long_mode(0x6000);
    state.idtr.limit = 0;
    vcpu_->set_state(state);
    const Exit exit = vcpu_->run();
    EXPECT_TRUE(std::holds_alternative<ShutdownExit>(exit)) << describe(exit);
    EXPECT_TRUE(std::holds_alternative<ShutdownExit>(vcpu_->run()));
    // And a reset brings it back.
    engine_->reset();
    code(0x6000, {0xe6, 0x10});
    vcpu_->set_state(real_mode(0x6000));
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0});
}

TEST_F(KvmRun, KickIsStickyAndQuick)
{
    code(0x6000, {0xeb, 0xfe});  // jmp $
    vcpu_->set_state(real_mode(0x6000));
    vcpu_->kick();
    EXPECT_EXIT_IS(vcpu_->run(), KickExit{});

    using Clock = std::chrono::steady_clock;
    std::vector<double> latencies;
    for (int i = 0; i < 20; ++i) {
        std::atomic<std::int64_t> kicked{0};
        std::thread kicker{[&] {
            std::this_thread::sleep_for(std::chrono::milliseconds{3});
            kicked = Clock::now().time_since_epoch().count();
            vcpu_->kick();
        }};
        EXPECT_EXIT_IS(vcpu_->run(), KickExit{});
        latencies.push_back(
            static_cast<double>(Clock::now().time_since_epoch().count() - kicked) / 1e6);
        kicker.join();
    }
    std::sort(latencies.begin(), latencies.end());
    // A busy machine may delay some; a kick that waits for a time slice would delay all.
    EXPECT_LT(latencies[latencies.size() / 2], 5.0);
    RecordProperty("median_kick_ms", std::to_string(latencies[latencies.size() / 2]));
}

TEST_F(KvmRun, KickEndsAHalt)
{
    code(0x6000, {0xfa, 0xf4});  // cli; hlt: halts inside KVM
    vcpu_->set_state(real_mode(0x6000));
    std::thread kicker{[&] {
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
        vcpu_->kick();
    }};
    EXPECT_EXIT_IS(vcpu_->run(), KickExit{});
    kicker.join();
    EXPECT_EQ(vcpu_->state().events.activity, x86::Activity::halted);
}

TEST_F(KvmRun, LinesAndMessagesInterrupt)
{
    // Vector 0x24: out 0x10, al; iret. PIC: base 0x20, everything masked but line 4.
    code(0x6000, {0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21,
                  0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xef, 0xe6, 0x21, 0xe6, 0x11, 0xfb, 0xf4, 0xeb, 0xfd});
    code(0x6100, {0xb0, 0x77, 0xe6, 0x10, 0xcf});
    poke(0x24 * 4, std::uint32_t{0x6100});
    vcpu_->set_state(real_mode(0x6000));
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x11, 1, 0xef});
    engine_->interrupt_sink()->set_line(4, true);
    EXPECT_EXIT_IS(vcpu_->run(), IoWriteExit{0x10, 1, 0x77});
    // After a reset the PIC delivers nothing until it is set up again.
    engine_->interrupt_sink()->set_line(4, false);
    engine_->reset();
    EXPECT_EQ(vcpu_->state().rip, 0xfff0u);
}

}  // namespace
}  // namespace doppel::engine
