// A bare engine for tests: memory, clock, CPUID policy and one vCPU, without a machine.
#pragma once

#include <memory>
#include <string_view>

#include "engine/engine.h"

namespace doppel::conformance {

// What the translate engine has done so far; zeros with the others.
struct Work {
    std::uint64_t entries_user = 0, entries_supervisor = 0;  // of translated code
    std::uint64_t blocks = 0, instructions = 0;              // translated
};

class TestEngine {
public:
    // engine: kvm, interpret, translate, or lock-step, which is translate with every block checked.
    static base::Result<std::unique_ptr<TestEngine>> create(std::string_view engine,
                                                            std::uint64_t memory_size);
    ~TestEngine();

    memory::GuestMemory& memory() { return *memory_; }
    engine::Vcpu& vcpu() { return *vcpu_; }
    engine::Engine& engine() { return *engine_; }
    // The local APIC as after power-up.
    void reset() { engine_->reset(); }
    // By the engine's counters.
    [[nodiscard]] Work work() const;

private:
    TestEngine() = default;
    std::unique_ptr<memory::GuestMemory> memory_;
    std::unique_ptr<bus::VmClock> clock_;
    std::unique_ptr<x86::CpuidPolicy> cpuid_;
    std::unique_ptr<engine::Engine> engine_;
    std::unique_ptr<engine::Vcpu> vcpu_;
};

}  // namespace doppel::conformance
