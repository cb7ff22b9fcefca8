// A few bytes of machine code in a VM of the kvm engine, without a machine around it.
#pragma once

#include <gtest/gtest.h>
#include <x86intrin.h>

#include <chrono>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace doppel::engine {

class HostTime final : public bus::VmClock {
public:
    std::uint64_t now_ns() const override
    {
        return static_cast<std::uint64_t>(
            std::chrono::steady_clock::now().time_since_epoch().count());
    }
    std::uint64_t tsc() const override { return __rdtsc(); }
    std::uint64_t tsc_hz() const override { return 2'000'000'000; }
    std::unique_ptr<bus::Timer> create_timer(std::function<void()>) override { return nullptr; }
};

// A VM with 1 MiB of RAM at 0 and a page of ROM at 1 MiB. Skips the test where KVM is not usable.
class BareGuest : public testing::Test {
protected:
    void SetUp() override
    {
        memory_ = std::move(memory::GuestMemory::create(0x101000)).value();
        ASSERT_TRUE(memory_->add_slot(base::Gpa{0}, 0x100000, 0));
        ASSERT_TRUE(memory_->add_slot(base::Gpa{0x100000}, 0x1000, 0x100000, true));
        auto engine = create_kvm_engine({*memory_, clock_, cpuid_, 1});
        if (!engine) GTEST_SKIP() << engine.error().text();
        engine_ = std::move(engine).value();
        auto vcpu = engine_->create_vcpu(0);
        ASSERT_TRUE(vcpu) << vcpu.error().text();
        vcpu_ = std::move(vcpu).value();
    }

    void code(std::uint64_t at, std::initializer_list<unsigned> bytes)
    {
        std::vector<std::byte> raw;
        for (const unsigned byte : bytes) raw.push_back(static_cast<std::byte>(byte));
        ASSERT_TRUE(memory_->load(base::Gpa{at}, raw));
    }
    template <typename T>
    void poke(std::uint64_t at, T value)
    {
        ASSERT_TRUE(memory_->write_value(base::Gpa{at}, value));
    }
    template <typename T>
    T peek(std::uint64_t at)
    {
        T value{};
        EXPECT_TRUE(memory_->read_value(base::Gpa{at}, value));
        return value;
    }

    // Real mode at 0:start.
    x86::CpuState real_mode(std::uint64_t start)
    {
        x86::CpuState state = x86::reset_state(true);
        state.segments[x86::CS].selector = 0;
        state.segments[x86::CS].base = 0;
        state.rip = start;
        state.gpr[x86::RSP] = 0x8000;
        return state;
    }
    // Flat 64-bit mode, ring 0, the first 2 MiB mapped to themselves. IDT at 0x4000, GDT at 0x5000.
    x86::CpuState long_mode(std::uint64_t start)
    {
        poke(0x1000, std::uint64_t{0x2007});
        poke(0x2000, std::uint64_t{0x3007});
        poke(0x3000, std::uint64_t{0x87});
        poke(0x5008, std::uint64_t{0x00af9b000000ffff});
        poke(0x5010, std::uint64_t{0x00cf93000000ffff});
        x86::CpuState state = x86::reset_state(true);
        for (auto& segment : state.segments) {
            segment = {0x10, 0, 0xc093, 0xffffffff, 0, 0};
        }
        state.segments[x86::CS] = {0x08, 0, 0xa09b, 0xffffffff, 0, 0};
        state.gdtr = {0x5000, 0x1f, 0};
        state.idtr = {0x4000, 0xfff, 0};
        state.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::ET | x86::cr0::NE | x86::cr0::WP;
        state.cr3 = 0x1000;
        state.cr4 = x86::cr4::PAE | x86::cr4::OSFXSR;
        state.efer = x86::efer::LME | x86::efer::LMA | x86::efer::NXE | x86::efer::SCE;
        state.rip = start;
        state.gpr[x86::RSP] = 0x8000;
        return state;
    }
    void gate(unsigned vector, std::uint64_t handler)
    {
        const std::uint64_t at = 0x4000 + 16 * vector;
        poke(at, (handler & 0xffff) | 0x08ull << 16 | 0x8eull << 40 | (handler >> 16 & 0xffff) << 48);
        poke(at + 8, handler >> 32);
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
    x86::CpuidPolicy cpuid_ = x86::CpuidPolicy::create(x86::this_host(), 1, clock_.tsc_hz());
    std::unique_ptr<memory::GuestMemory> memory_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Vcpu> vcpu_;
};

inline std::string describe(const Exit& exit)
{
    if (const auto* error = std::get_if<ErrorExit>(&exit)) return "error: " + error->reason;
    if (const auto* shutdown = std::get_if<ShutdownExit>(&exit)) return "shutdown: " + shutdown->reason;
    if (const auto* w = std::get_if<IoWriteExit>(&exit)) {
        return "write of " + std::to_string(w->value) + " to port " + std::to_string(w->port);
    }
    return "exit " + std::to_string(exit.index());
}

#define EXPECT_EXIT_IS(actual, ...)                          \
    do {                                                     \
        const Exit actual_ = (actual);                       \
        const Exit wanted_ = __VA_ARGS__;                    \
        EXPECT_TRUE(actual_ == wanted_) << describe(actual_) << ", wanted " << describe(wanted_); \
    } while (false)

}  // namespace doppel::engine
