// The translate engine: exits, interrupts, kicks, time and memory that changes under the guest.
#include "worker_guest.h"

namespace doppel::engine {
namespace {

TEST_F(WorkerGuest, Ports)
{
    // in al, 0x10; out 0x11, al; mov dx, 0x1234; in ax, dx; out dx, ax
    start(0x1000, {0xe4, 0x10, 0xe6, 0x11, 0xba, 0x34, 0x12, 0xed, 0xef});
    EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x10, 1}}));
    vcpu_->complete_read(0x42);
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x11, 1, 0x42}}));
    EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x1234, 2}}));
    vcpu_->complete_read(0xabcd);
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x1234, 2, 0xabcd}}));
}

TEST_F(WorkerGuest, ReadsAndStatesBetween)
{
    start(0x1000, {0xe4, 0x10, 0x90, 0xe6, 0x11});  // in al, 0x10; nop; out 0x11, al
    EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x10, 1}}));
    vcpu_->complete_read(0x42);
    // Unlike for a snapshot, nobody has to run() first.
    const x86::CpuState state = vcpu_->state();
    EXPECT_EQ(state.rip, 0x1000u);
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x11, 1, 0x42}}));
}

TEST_F(WorkerGuest, PortsInBothHalvesOf64Bits)
{
    for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{0xffff800000000000}}) {
        // 1: out 0x43, al; in al, 0x40; mov ecx, eax; in al, 0x40; mov esi, eax; in al, 0x40;
        // test cl, 0x40; jne 1b; shl eax, 8; or eax, esi; out 0x80, eax
        start64(base + 0x6000, {0xe6, 0x43, 0xe4, 0x40, 0x89, 0xc1, 0xe4, 0x40, 0x89, 0xc6, 0xe4,
                                0x40, 0xf6, 0xc1, 0x40, 0x75, 0xef, 0xc1, 0xe0, 0x08, 0x09, 0xf0,
                                0xe7, 0x80});
        for (const unsigned status : {0x40u, 0x60u, 0x00u}) {
            const Exit first = vcpu_->run();
            const auto* write = std::get_if<IoWriteExit>(&first);
            ASSERT_TRUE(write != nullptr && write->port == 0x43);
            EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x40, 1}}));
            vcpu_->complete_read(status);
            EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x40, 1}}));
            vcpu_->complete_read(0x34);
            EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x40, 1}}));
            vcpu_->complete_read(0x12);
        }
        EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x80, 4, 0x1234}}));
    }
}

TEST_F(WorkerGuest, Memory)
{
    // mov ax, 0xa000; ... beyond the RAM: mov bx, 0xffff; mov ds, bx; mov ax, [0x2000]; mov [0x2010], al
    start(0x1000, {0xbb, 0xff, 0xff, 0x8e, 0xdb, 0xa1, 0x00, 0x20, 0xa2, 0x10, 0x20});
    EXPECT_EQ(vcpu_->run(), (Exit{MmioReadExit{base::Gpa{0x101ff0}, 2}}));
    vcpu_->complete_read(0x55aa);
    EXPECT_EQ(vcpu_->run(), (Exit{MmioWriteExit{base::Gpa{0x102000}, 1, 0xaa}}));
}

TEST_F(WorkerGuest, StateGoesThereAndBack)
{
    start(0x1000, {0xe6, 0x10});
    x86::CpuState state = vcpu_->state();
    for (unsigned i = 0; i < 16; ++i) state.gpr[i] = 0x1111 * i;
    state.xsave.bytes[0] = 0x7f;
    state.xsave.bytes[512] = 1;
    state.events.nmi_blocked = true;
    state.cr2 = 0x1234567890;
    vcpu_->set_state(state);
    x86::CpuState back = vcpu_->state();
    back.tsc = state.tsc;
    EXPECT_EQ(back.gpr, state.gpr);
    EXPECT_EQ(back.cr2, state.cr2);
    EXPECT_EQ(back.events, state.events);
    EXPECT_EQ(back.segments, state.segments);
    EXPECT_EQ(back.xsave, state.xsave);
}

TEST_F(WorkerGuest, KicksEndRunAndLast)
{
    start(0x1000, {0xeb, 0xfe});  // jmp .
    EXPECT_EQ(run_while([this] { vcpu_->kick(); }), Exit{KickExit{}});
    vcpu_->kick();
    EXPECT_EQ(vcpu_->run(), Exit{KickExit{}});
    for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(run_while([this] { vcpu_->kick(); }, std::chrono::milliseconds{0}), Exit{KickExit{}});
    }
}

TEST_F(WorkerGuest, KickReachesAHaltedGuest)
{
    start(0x1000, {0xfb, 0xf4, 0xeb, 0xfd});  // sti; hlt; jmp hlt
    EXPECT_EQ(run_while([this] { vcpu_->kick(); }), Exit{KickExit{}});
    EXPECT_EQ(run_while([this] { vcpu_->kick(); }), Exit{KickExit{}});
}

TEST_F(WorkerGuest, Budget)
{
    start(0x1000, {0x40, 0x40, 0x40, 0x40, 0xe6, 0x10});  // inc ax, four times; out 0x10, al
    vcpu_->set_budget(3);
    EXPECT_EQ(vcpu_->run(), Exit{KickExit{}});
    EXPECT_EQ(vcpu_->state().gpr[x86::RAX] & 0xffff, 3u);
    vcpu_->set_budget(0);
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 4}}));
}

TEST_F(WorkerGuest, HaltWithoutInterruptsAndAnNmi)
{
    handlers();
    start(0x1000, {0xfa, 0xf4, 0xe6, 0x10});  // cli; hlt; out 0x10, al
    EXPECT_EQ(vcpu_->run(), Exit{HaltExit{}});
    std::thread other{[this] {
        std::this_thread::sleep_for(std::chrono::milliseconds{30});
        engine_->local_interrupts()->inject_nmi();
    }};
    vcpu_->wait();
    other.join();
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x02, 1, 0}}));
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 0}}));
}

TEST_F(WorkerGuest, AKickIsKeptForTheNextHalt)
{
    // cli; mov eax, 5; xor ecx, ecx; vmcall; hlt; out 0x10, al; hlt
    start(0x1000, {0xfa, 0x66, 0xb8, 0x05, 0x00, 0x00, 0x00, 0x66, 0x31, 0xc9, 0x0f, 0x01, 0xc1, 0xf4,
                   0xe6, 0x10, 0xf4});
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 0}}));
    EXPECT_FALSE(vcpu_->state().events.unhalted);
    EXPECT_EQ(vcpu_->run(), Exit{HaltExit{}});
    EXPECT_EQ(counter("hypercalls.kicked_halts"), 1u);

    // One that has come is part of the state, halted or not.
    for (const auto activity : {x86::Activity::running, x86::Activity::halted}) {
        start(0x1000, {0xfa, 0xf4, 0xe6, 0x10});  // cli; hlt; out 0x10, al
        x86::CpuState state = vcpu_->state();
        state.events.unhalted = true;
        state.events.activity = activity;
        if (activity == x86::Activity::halted) state.rip += 2;
        vcpu_->set_state(state);
        EXPECT_TRUE(vcpu_->state().events.unhalted);
        EXPECT_TRUE(std::holds_alternative<IoWriteExit>(vcpu_->run()));
        EXPECT_FALSE(vcpu_->state().events.unhalted);
    }
    engine_->reset();
    EXPECT_FALSE(vcpu_->state().events.unhalted);
}

TEST_F(WorkerGuest, ExternalInterrupt)
{
    handlers();
    start(0x1000, {0xfb, 0xf4, 0xe6, 0x10});  // sti; hlt; out 0x10, al
    EXPECT_EQ(run_while([this] { pic_.interrupts->set_external_interrupt(true); }),
              (Exit{IoWriteExit{0x20, 1, 0}}));
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 0}}));
    EXPECT_EQ(pic_.acknowledged, 1);

    start(0x1000, {0xfb, 0xeb, 0xfe});  // sti; jmp .
    EXPECT_EQ(run_while([this] { pic_.interrupts->set_external_interrupt(true); }),
              (Exit{IoWriteExit{0x20, 1, 0}}));
    EXPECT_EQ(pic_.acknowledged, 2);
}

TEST_F(WorkerGuest, MoreEventsThanTheRingHolds)
{
    start(0x1000, {0xeb, 0xfe});
    static_cast<void>(run_while([this] { vcpu_->kick(); }));
    // Nobody takes them before the next run().
    for (unsigned i = 0; i < 20000; ++i) {
        pic_.interrupts->deliver({0xfee00000, 0x4000 | (i & 0xff)});
        pic_.interrupts->set_external_interrupt(i % 2 == 0);
        write(0x2000 + i % 0x1000, {0x90});
        write(0x1000, {0xeb, 0xfe});
    }
    pic_.interrupts->set_external_interrupt(false);
    EXPECT_EQ(run_while([this] { vcpu_->kick(); }), Exit{KickExit{}});
    EXPECT_EQ(pic_.acknowledged, 0);
}

TEST_F(WorkerGuest, CodeThatTheVmmWritesOver)
{
    start(0x1000, {0xeb, 0xfe});  // jmp .
    EXPECT_EQ(run_while([this] { write(0x1000, {0xe6, 0x10}); }), (Exit{IoWriteExit{0x10, 1, 0}}));
    // Everything at once: zeros are add [bx+si], al, up to the end of RAM. What comes then does
    // not matter; the loop must not be there any more.
    start(0x1000, {0xeb, 0xfe});
    static_cast<void>(run_while([this] {
        memory_->clear();
        std::this_thread::sleep_for(std::chrono::milliseconds{30});
        vcpu_->kick();
    }));
    EXPECT_NE(vcpu_->state().rip, 0x1000u);
}

TEST_F(WorkerGuest, Reset)
{
    start(0x1000, {0xe4, 0x10});
    EXPECT_EQ(vcpu_->run(), (Exit{IoReadExit{0x10, 1}}));
    engine_->reset();
    const x86::CpuState state = vcpu_->state();
    EXPECT_EQ(state.rip, x86::reset_state(true).rip);
    start(0x1000, {0xe6, 0x10});
    EXPECT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 0}}));
}

TEST_F(WorkerGuest, TripleFaultIsToldOnceAndForAll)
{
    start(0x1000, {0xcc});
    x86::CpuState state = vcpu_->state();
    state.idtr.limit = 0;
    vcpu_->set_state(state);
    EXPECT_TRUE(std::holds_alternative<ShutdownExit>(vcpu_->run()));
    EXPECT_TRUE(std::holds_alternative<ShutdownExit>(vcpu_->run()));
}

TEST_F(WorkerGuest, WhatAnExitCosts)
{
    start(0x1000, {0xe6, 0x10, 0xeb, 0xfc});  // out 0x10, al; jmp
    constexpr unsigned rounds = 20000;
    const std::uint64_t begin = translate::monotonic_ns();
    for (unsigned i = 0; i < rounds; ++i) {
        ASSERT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 0}}));
    }
    const std::uint64_t ns = (translate::monotonic_ns() - begin) / rounds;
    RecordProperty("ns_per_exit", std::to_string(ns));
    std::printf("%llu ns for an exit\n", static_cast<unsigned long long>(ns));
}

}  // namespace
}  // namespace doppel::engine
