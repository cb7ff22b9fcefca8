// The interpret engine: its vCPUs and the routing of interrupt messages between them.
#include <sched.h>

#include <mutex>
#include <vector>

#include "bus/doorbell_set.h"
#include "engine/engine.h"
#include "engine/interpret/shared_code.h"
#include "engine/interpret/vcpu.h"

namespace doppel::engine {

namespace {

using interpret::ApicRouter;
using interpret::InterpretVcpu;
using interpret::SharedCode;

// The VM owns the vCPUs; the engine knows those that are alive.
class InterpretEngine final : public Engine, private bus::LocalInterrupts, private ApicRouter {
public:
    InterpretEngine(const EngineConfig& config, std::unique_ptr<SharedCode> shared)
        : config_(config), shared_(std::move(shared))
    {
    }

    EngineKind kind() const override { return EngineKind::interpret; }
    Capabilities capabilities() const override
    {
        Capabilities capabilities;
        capabilities.counts_instructions = true;
        capabilities.instruction_budget = true;
        capabilities.hand_over = true;
        capabilities.max_vcpus = SharedCode::most_vcpus;
        return capabilities;
    }

    base::Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index) override
    {
        ASSERT(index == vcpus_.size());
        auto vcpu = TRY(InterpretVcpu::create(config_, *this, index));
        vcpus_.push_back(vcpu.get());
        return std::unique_ptr<Vcpu>{std::move(vcpu)};
    }

    bus::LocalInterrupts* local_interrupts() override { return this; }
    void connect(bus::InterruptSource& source) override { source_ = &source; }
    bus::Doorbells& doorbells() override { return doorbells_; }

    void reset() noexcept override
    {
        for (std::size_t i = 0; i < vcpus_.size(); ++i) {
            vcpus_[i]->reset_apic();
            vcpus_[i]->set_state(x86::reset_state(i == 0));
        }
    }

    void counters(base::CounterList& list) const override
    {
        list.add("doorbells.rung", doorbells_.rung());
    }

private:
    // LocalInterrupts
    void deliver(const bus::Msi& message) noexcept override
    {
        if (const auto decoded = x86::decode_msi(message.address, message.data)) {
            route(*decoded, static_cast<unsigned>(vcpus_.size()));
        }
    }
    void set_external_interrupt(bool level) noexcept override
    {
        if (!vcpus_.empty()) vcpus_[0]->set_external_interrupt(level);
    }
    void inject_nmi() noexcept override
    {
        for (InterpretVcpu* vcpu : vcpus_) vcpu->inject_nmi();
    }

    // ApicRouter
    void route(const x86::ApicMessage& message, unsigned sender) noexcept override
    {
        InterpretVcpu* lowest = nullptr;
        for (std::size_t i = 0; i < vcpus_.size(); ++i) {
            if (!vcpus_[i]->matches(message, i == sender)) continue;
            if (message.mode != x86::DeliveryMode::lowest_priority) {
                vcpus_[i]->accept(message);
            } else if (lowest == nullptr ||
                       vcpus_[i]->arbitration_priority() < lowest->arbitration_priority()) {
                lowest = vcpus_[i];
            }
        }
        if (lowest != nullptr) lowest->accept(message);
    }
    void kick_cpu(std::uint32_t apic_id) noexcept override
    {
        if (apic_id < vcpus_.size()) vcpus_[apic_id]->end_halt();
    }
    unsigned send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept override
    {
        unsigned taken = 0;
        for (std::size_t i = 0; i < vcpus_.size(); ++i) {
            if ((apic_ids >> i & 1) == 0 || !vcpus_[i]->takes(message.mode)) continue;
            vcpus_[i]->accept(message);
            ++taken;
        }
        return taken;
    }
    // To whom cannot be said: to whoever waits for this processor.
    void yield_to(std::uint32_t apic_id) noexcept override
    {
        if (apic_id < vcpus_.size()) ::sched_yield();
    }
    bus::InterruptSource* source() noexcept override { return source_; }
    bool ring(bus::Space space, std::uint64_t address, unsigned size,
              std::uint64_t value) noexcept override
    {
        return doorbells_.ring(space, address, size, value);
    }
    SharedCode* shared_code() noexcept override { return shared_.get(); }
    std::uint64_t common_tsc_offset(std::uint64_t wanted) noexcept override
    {
        if (shared_ == nullptr) return wanted;
        const std::lock_guard lock{tsc_mutex_};
        const auto apart = static_cast<std::int64_t>(wanted - tsc_offset_);
        const auto second = static_cast<std::int64_t>(config_.clock.tsc_hz());
        if (!tsc_offset_known_ || apart > second || apart < -second) tsc_offset_ = wanted;
        tsc_offset_known_ = true;
        return tsc_offset_;
    }

    EngineConfig config_;
    std::unique_ptr<SharedCode> shared_;
    std::vector<InterpretVcpu*> vcpus_;
    std::mutex tsc_mutex_;
    std::uint64_t tsc_offset_ = 0;  // tsc_mutex_: the last one, for common_tsc_offset()
    bool tsc_offset_known_ = false;
    bus::InterruptSource* source_ = nullptr;
    bus::DoorbellSet doorbells_;
};

}  // namespace

base::Result<std::unique_ptr<Engine>> create_interpret_engine(const EngineConfig& config)
{
    std::unique_ptr<interpret::SharedCode> shared;
    if (config.vcpus > 1) shared = TRY(interpret::SharedCode::create(config.memory.end()));
    return std::unique_ptr<Engine>{std::make_unique<InterpretEngine>(config, std::move(shared))};
}

}  // namespace doppel::engine
