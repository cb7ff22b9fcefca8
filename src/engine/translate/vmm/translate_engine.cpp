// The translate engine: its one vCPU, in a worker process of its own.
#include "engine/engine.h"
#include "engine/translate/vmm/launch.h"
#include "engine/translate/vmm/translate_vcpu.h"

namespace doppel::engine {

namespace {

using translate::Event;
using translate::TranslateVcpu;

// The VM owns the vCPU; the engine knows it while it lives.
class TranslateEngine final : public Engine, private bus::LocalInterrupts {
public:
    explicit TranslateEngine(const EngineConfig& config) : config_(config) {}

    EngineKind kind() const override { return EngineKind::translate; }
    Capabilities capabilities() const override
    {
        Capabilities capabilities;
        capabilities.counts_instructions = true;
        capabilities.instruction_budget = true;
        capabilities.hand_over = true;
        capabilities.max_vcpus = 1;
        return capabilities;
    }

    base::Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index) override
    {
        ASSERT(index == 0 && vcpu_ == nullptr);
        auto vcpu = TRY(TranslateVcpu::create(config_, index, source_, doorbells_));
        vcpu_ = vcpu.get();
        return std::unique_ptr<Vcpu>{std::move(vcpu)};
    }

    bus::LocalInterrupts* local_interrupts() override { return this; }
    void connect(bus::InterruptSource& source) override { source_ = &source; }
    bus::Doorbells& doorbells() override { return doorbells_; }

    void reset() noexcept override
    {
        if (vcpu_ == nullptr) return;
        vcpu_->reset_apic();
        vcpu_->set_state(x86::reset_state(true));
    }

private:
    // LocalInterrupts
    void deliver(const bus::Msi& message) noexcept override
    {
        post({Event::msi, 0, message.address, message.data});
    }
    void set_external_interrupt(bool level) noexcept override
    {
        post({Event::external_interrupt, level ? 1u : 0u, 0, 0});
    }
    void inject_nmi() noexcept override { post({Event::nmi, 0, 0, 0}); }
    void post(const Event& event) noexcept
    {
        if (vcpu_ != nullptr) vcpu_->post(event);
    }

    EngineConfig config_;
    translate::WorkerDoorbells doorbells_;
    TranslateVcpu* vcpu_ = nullptr;
    bus::InterruptSource* source_ = nullptr;
};

}  // namespace

std::string translate_problem()
{
    return translate::launch_problem();
}

base::Result<std::unique_ptr<Engine>> create_translate_engine(const EngineConfig& config)
{
    if (const std::string problem = translate_problem(); !problem.empty()) {
        return base::host_error("--engine translate: " + problem);
    }
    return std::unique_ptr<Engine>{std::make_unique<TranslateEngine>(config)};
}

}  // namespace doppel::engine
