// Several engines over one machine, one of which runs the guest: the guest changes engine while
// it runs and does not notice. How engines check each other.
//
//   Vm, Pc ──▶ SwitchingEngine ──▶ engine 0   parked: keeps its vCPU, and nothing of the guest
//                   │ current ───▶ engine 1   has the guest's CPU
//                   └────────────▶ ...
//
// A switch moves HandOver from one vCPU to the next one in the list, round and round, between two
// instructions. All engines are made at the start, so that a switch has nothing to fail for.
//
// Threads: as Engine; request_switch() from any thread. Lock rule: the mutex may be taken with the
// device lock held, and engines' own locks with the mutex held.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace doppel::vm {

class SwitchingVcpu;

using EngineFactory =
    std::function<base::Result<std::unique_ptr<engine::Engine>>(const engine::EngineConfig&)>;

class SwitchingEngine final : public engine::Engine,
                              private bus::LocalInterrupts,
                              private bus::Doorbells {
public:
    // At least two factories. limits: the vCPU's i-th engine since the start has it for so many
    // instructions; engines beyond the list, and those with a limit of 0, until request_switch().
    // An engine that is to be left at a limit has to have an instruction budget. Fails for an
    // engine that cannot hand over.
    static base::Result<std::unique_ptr<SwitchingEngine>> create(
        std::span<const EngineFactory> factories, std::vector<std::uint64_t> limits,
        const engine::EngineConfig& config);

    // The next engine, soon. Each call is a switch of its own.
    void request_switch() noexcept;

    // Engine. kind() is that of the current one.
    [[nodiscard]] engine::EngineKind kind() const override { return current().kind(); }
    [[nodiscard]] engine::Capabilities capabilities() const override;
    base::Result<std::unique_ptr<engine::Vcpu>> create_vcpu(unsigned index) override;
    bus::LocalInterrupts* local_interrupts() override { return this; }
    void connect(bus::InterruptSource& source) override;
    // None: a doorbell is one engine's. Devices then hear of every write from the bus.
    bus::Doorbells& doorbells() override { return *this; }
    void reset() noexcept override { current().reset(); }
    void counters(base::CounterList& list) const override;

private:
    friend class SwitchingVcpu;

    explicit SwitchingEngine(const engine::EngineConfig& config) : config_(config) {}
    [[nodiscard]] engine::Engine& current() const { return *engines_[current_.load()]; }
    // Moves the guest from one vCPU to the other; interrupts that come meanwhile wait.
    base::Result<void> move(engine::Vcpu& from, engine::Vcpu& to, std::size_t to_index) noexcept;

    // Doorbells
    base::Result<std::unique_ptr<bus::Doorbell>> create() override;
    // LocalInterrupts
    void deliver(const bus::Msi& message) noexcept override;
    void set_external_interrupt(bool level) noexcept override;
    void inject_nmi() noexcept override;

    engine::EngineConfig config_;
    std::vector<std::unique_ptr<engine::Engine>> engines_;
    std::vector<std::uint64_t> limits_;
    SwitchingVcpu* vcpu_ = nullptr;          // the VM owns it
    std::mutex mutex_;                       // an interrupt's way, against a switch
    std::atomic<std::size_t> current_{0};    // changed with the mutex held
    std::atomic<std::uint64_t> switches_{0};
};

}  // namespace doppel::vm
