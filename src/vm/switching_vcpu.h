// The vCPU of a SwitchingEngine: one vCPU of each engine, of which the current one runs.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "engine/engine.h"

namespace doppel::vm {

class SwitchingEngine;

class SwitchingVcpu final : public engine::Vcpu {
public:
    SwitchingVcpu(SwitchingEngine& engine, std::vector<std::unique_ptr<engine::Vcpu>> vcpus);
    ~SwitchingVcpu() override;

    // Any thread. See SwitchingEngine.
    void request_switch() noexcept;

    // Vcpu
    engine::Exit run() noexcept override;
    void complete_read(std::uint64_t value) noexcept override { current().complete_read(value); }
    void kick() noexcept override;
    void wait() noexcept override { current().wait(); }
    x86::CpuState state() noexcept override { return current().state(); }
    void set_state(const x86::CpuState& state) noexcept override { current().set_state(state); }
    bool between_instructions() noexcept override { return current().between_instructions(); }
    void set_budget(std::uint64_t instructions) noexcept override { budget_ = instructions; }
    // Of all engines.
    [[nodiscard]] std::uint64_t instructions() const noexcept override;
    void counters(base::CounterList& list) const override;
    // Without shares: what one engine tells of itself says nothing of the others' time.
    [[nodiscard]] engine::RunTime run_time() const override;

private:
    [[nodiscard]] engine::Vcpu& current() const noexcept;
    // Instructions that the current engine may run before it has to be left; 0: no limit.
    [[nodiscard]] std::uint64_t limit() const noexcept;
    [[nodiscard]] std::uint64_t stretch() const noexcept;
    [[nodiscard]] bool switch_due() const noexcept;
    base::Result<void> switch_engine() noexcept;

    SwitchingEngine& engine_;
    std::vector<std::unique_ptr<engine::Vcpu>> vcpus_;
    std::uint64_t budget_ = 0;
    std::size_t stretches_ = 0;           // engines that had the guest before the current one
    std::uint64_t stretch_begin_ = 0;     // the current one's instructions() when it got it
    std::atomic<std::uint64_t> requests_{0};
    std::atomic<bool> kicked_{false};
};

// Counters of one engine among others, or of its vCPU.
void add_counters_of(base::CounterList& list, std::size_t engine, const base::CounterList& own);

}  // namespace doppel::vm
