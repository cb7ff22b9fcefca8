// The translate engine: its vCPUs, each in a worker process of its own, and what is for all of them.
#include <vector>

#include "engine/engine.h"
#include "engine/translate/vmm/launch.h"
#include "engine/translate/vmm/shared_commons.h"
#include "engine/translate/vmm/translate_vcpu.h"

namespace doppel::engine {

namespace {

using translate::Event;
using translate::SharedCommons;
using translate::StartedWorker;
using translate::TranslateVcpu;

// Larger writes are told of without a look at every page.
constexpr std::uint64_t large_write = 1u << 20;

// The VM owns the vCPUs; the engine knows them while they live.
class TranslateEngine final : public Engine,
                              private bus::LocalInterrupts,
                              private memory::WriteListener {
public:
    TranslateEngine(const EngineConfig& config, SharedCommons commons)
        : config_(config), commons_(std::move(commons))
    {
        doorbells_.attach(commons_.all().doorbells);
    }

    EngineKind kind() const override { return EngineKind::translate; }
    Capabilities capabilities() const override
    {
        Capabilities capabilities;
        capabilities.counts_instructions = true;
        capabilities.instruction_budget = true;
        capabilities.hand_over = true;
        capabilities.max_vcpus = translate::vcpus_max;
        return capabilities;
    }

    base::Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index) override
    {
        ASSERT(index == vcpus_.size() && index < config_.vcpus);
        if (index == 0) TRY(start_workers());
        auto vcpu = TRY(TranslateVcpu::create(config_, index, source_, commons_,
                                              std::move(workers_[index])));
        vcpus_.push_back(vcpu.get());
        if (index == 0) config_.memory.add_listener(*this);
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

private:
    // Each of them opens the others' process descriptors when it sets itself up.
    base::Result<void> start_workers()
    {
        const translate::DoorbellEvents events = TRY(doorbells_.events());
        for (unsigned i = 0; i < config_.vcpus; ++i) {
            workers_.push_back(TRY(StartedWorker::start(config_, i, commons_, events)));
        }
        return {};
    }

    // LocalInterrupts
    void deliver(const bus::Msi& message) noexcept override
    {
        const auto decoded = x86::decode_msi(message.address, message.data);
        if (!decoded) return;
        const auto count = static_cast<unsigned>(vcpus_.size());
        const Event event{Event::msi, 0, message.address, message.data};
        post(count == 1 ? 1 : translate::destinations(commons_.all(), count, *decoded, count), event);
    }
    void set_external_interrupt(bool level) noexcept override
    {
        post(1, {Event::external_interrupt, level ? 1u : 0u, 0, 0});
    }
    void inject_nmi() noexcept override { post(everybody, {Event::nmi, 0, 0, 0}); }

    // WriteListener: those that have code of it are told.
    void on_write(base::Gpa start, std::uint64_t size) noexcept override
    {
        std::uint64_t holders = size >= large_write ? everybody : 0;
        for (std::uint64_t done = 0; done < size && holders != everybody;) {
            const base::Gpa at = start + done;
            if (const memory::Slot* slot = config_.memory.find(at)) {
                holders |= commons_.holders(slot->offset + (at.value - slot->start.value));
            }
            done += base::page_size - at.page_offset();
        }
        post(holders, {Event::memory_written, 0, start.value, size});
    }

    // vcpus: as bits.
    static constexpr std::uint64_t everybody = ~std::uint64_t{0};
    void post(std::uint64_t vcpus, const Event& event) noexcept
    {
        for (std::size_t i = 0; i < vcpus_.size(); ++i) {
            if ((vcpus >> i & 1) != 0) vcpus_[i]->post(event);
        }
    }

    EngineConfig config_;
    SharedCommons commons_;
    translate::WorkerDoorbells doorbells_;
    std::vector<StartedWorker> workers_;  // moved from, once there is the vCPU
    std::vector<TranslateVcpu*> vcpus_;
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
    SharedCommons commons = TRY(SharedCommons::create(config));
    return std::unique_ptr<Engine>{std::make_unique<TranslateEngine>(config, std::move(commons))};
}

}  // namespace doppel::engine
