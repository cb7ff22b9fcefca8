// The translate engine over its real worker process, without a machine around it: exits,
// interrupts, kicks, time and memory that changes under the guest.
#include <gtest/gtest.h>
#include <x86intrin.h>

#include <chrono>
#include <initializer_list>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/translate/link/futex.h"

namespace doppel::engine {
namespace {

class HostTime final : public bus::VmClock {
public:
    std::uint64_t now_ns() const override { return translate::monotonic_ns(); }
    std::uint64_t tsc() const override { return __rdtsc(); }
    std::uint64_t tsc_hz() const override { return 2'000'000'000; }
    std::optional<bus::HostOffsets> host_offsets() const override { return bus::HostOffsets{}; }
    std::unique_ptr<bus::Timer> create_timer(std::function<void()>) override { return nullptr; }
};

class FakePic final : public bus::InterruptSource {
public:
    std::uint8_t acknowledge() noexcept override
    {
        ++acknowledged;
        interrupts->set_external_interrupt(false);
        return 0x20;
    }
    void end_of_interrupt(std::uint8_t) noexcept override {}

    bus::LocalInterrupts* interrupts = nullptr;
    int acknowledged = 0;
};

class WorkerGuest : public testing::Test {
protected:
    void SetUp() override
    {
        if (!translate_problem().empty()) GTEST_SKIP() << translate_problem();
        memory_ = std::move(memory::GuestMemory::create(0x101000)).value();
        ASSERT_TRUE(memory_->add_slot(base::Gpa{0}, 0x100000, 0));
        ASSERT_TRUE(memory_->add_slot(base::Gpa{0x100000}, 0x1000, 0x100000, true));
        engine_ = std::move(create_translate_engine({*memory_, clock_, cpuid_, 1})).value();
        pic_.interrupts = engine_->local_interrupts();
        engine_->connect(pic_);
        auto vcpu = engine_->create_vcpu(0);
        ASSERT_TRUE(vcpu) << vcpu.error().text();
        vcpu_ = std::move(vcpu).value();
    }

    void write(std::uint64_t at, std::initializer_list<unsigned> bytes)
    {
        std::vector<std::byte> raw;
        for (const unsigned byte : bytes) raw.push_back(static_cast<std::byte>(byte));
        ASSERT_TRUE(memory_->write(base::Gpa{at}, raw));
    }
    // Real mode at 0:start.
    void start(std::uint64_t at, std::initializer_list<unsigned> bytes)
    {
        write(at, bytes);
        x86::CpuState state = x86::reset_state(true);
        for (auto& segment : state.segments) segment.base = segment.selector = 0;
        state.rip = at;
        state.gpr[x86::RSP] = 0x8000;
        vcpu_->set_state(state);
    }
    // 64-bit mode, ring 0, the first 2 MiB mapped to themselves, and again at the beginning of
    // the upper half.
    void start64(std::uint64_t at, std::initializer_list<unsigned> bytes)
    {
        write(at & 0xfffff, bytes);
        const auto entry = [this](std::uint64_t where, std::uint64_t value) {
            ASSERT_TRUE(memory_->write_value(base::Gpa{where}, value));
        };
        entry(0x2000, 0x3007);
        entry(0x2800, 0x3007);
        entry(0x3000, 0x4007);
        entry(0x4000, 0x87);
        x86::CpuState state = x86::reset_state(true);
        for (auto& segment : state.segments) segment = {0x10, 0, 0xc093, 0xffffffff, 0, 0};
        state.segments[x86::CS] = {0x08, 0, 0xa09b, 0xffffffff, 0, 0};
        state.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::ET | x86::cr0::NE | x86::cr0::WP;
        state.cr3 = 0x2000;
        state.cr4 = x86::cr4::PAE | x86::cr4::OSFXSR;
        state.efer = x86::efer::LME | x86::efer::LMA | x86::efer::NXE | x86::efer::SCE;
        state.rip = at;
        state.gpr[x86::RSP] = (at & ~std::uint64_t{0xfffff}) + 0x8000;
        vcpu_->set_state(state);
    }
    // Vector 0x20 (and 2, the NMI): out 0x20, al; iret.
    void handlers()
    {
        write(0x20 * 4, {0x00, 0x90, 0x00, 0x00});
        write(2 * 4, {0x10, 0x90, 0x00, 0x00});
        write(0x9000, {0xe6, 0x20, 0xcf});
        write(0x9010, {0xe6, 0x02, 0xcf});
    }
    // Runs `action` on another thread after `delay`, while this one is in run().
    template <typename Action>
    Exit run_while(Action action, std::chrono::milliseconds delay = std::chrono::milliseconds{30})
    {
        std::thread other{[&] {
            std::this_thread::sleep_for(delay);
            action();
        }};
        const Exit exit = vcpu_->run();
        other.join();
        return exit;
    }

    HostTime clock_;
    FakePic pic_;
    x86::CpuidPolicy cpuid_ = x86::CpuidPolicy::create(x86::this_host(), 1, clock_.tsc_hz());
    std::unique_ptr<memory::GuestMemory> memory_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Vcpu> vcpu_;
};

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
