// The translate engine over its real worker process, without a machine around it.
#pragma once

#include <gtest/gtest.h>
#include <x86intrin.h>

#include <chrono>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/translate/link/futex.h"

namespace doppel::engine {

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

    std::uint64_t counter(const std::string& name)
    {
        base::CounterList list;
        vcpu_->counters(list);
        for (const auto& [key, value] : list.values()) {
            if (key == name) return value;
        }
        ADD_FAILURE() << "no counter " << name;
        return 0;
    }

    HostTime clock_;
    FakePic pic_;
    x86::CpuidPolicy cpuid_ = x86::CpuidPolicy::create(x86::this_host(), 1, clock_.tsc_hz());
    std::unique_ptr<memory::GuestMemory> memory_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Vcpu> vcpu_;
};

}  // namespace doppel::engine
