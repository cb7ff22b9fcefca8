#include "vm/switching_engine.h"

#include <fmt/format.h>

#include "vm/switching_vcpu.h"

namespace doppel::vm {

base::Result<std::unique_ptr<SwitchingEngine>> SwitchingEngine::create(
    std::span<const EngineFactory> factories, std::vector<std::uint64_t> limits,
    const engine::EngineConfig& config)
{
    ASSERT(factories.size() >= 2);
    std::unique_ptr<SwitchingEngine> all{new SwitchingEngine{config}};
    for (const EngineFactory& factory : factories) {
        all->engines_.push_back(TRY(factory(config)));
        const engine::Engine& made = *all->engines_.back();
        if (!made.capabilities().hand_over || made.capabilities().in_kernel_interrupts) {
            return base::usage_error(fmt::format(
                "--engine: {} cannot hand the guest over to another engine; name it alone",
                engine::name(made.kind())));
        }
    }
    all->limits_ = std::move(limits);
    return all;
}

engine::Capabilities SwitchingEngine::capabilities() const
{
    engine::Capabilities common = engines_[0]->capabilities();
    for (const auto& engine : engines_) {
        const engine::Capabilities one = engine->capabilities();
        common.counts_instructions = common.counts_instructions && one.counts_instructions;
        common.instruction_budget = common.instruction_budget && one.instruction_budget;
        common.max_vcpus = 1;
    }
    return common;
}

base::Result<std::unique_ptr<engine::Vcpu>> SwitchingEngine::create_vcpu(unsigned index)
{
    ASSERT(vcpu_ == nullptr);
    std::vector<std::unique_ptr<engine::Vcpu>> vcpus;
    for (const auto& engine : engines_) vcpus.push_back(TRY(engine->create_vcpu(index)));
    auto vcpu = std::make_unique<SwitchingVcpu>(*this, std::move(vcpus));
    vcpu_ = vcpu.get();
    return std::unique_ptr<engine::Vcpu>{std::move(vcpu)};
}

void SwitchingEngine::connect(bus::InterruptSource& source)
{
    for (const auto& engine : engines_) engine->connect(source);
}

void SwitchingEngine::request_switch() noexcept
{
    if (vcpu_ != nullptr) vcpu_->request_switch();
}

base::Result<void> SwitchingEngine::move(engine::Vcpu& from, engine::Vcpu& to,
                                         std::size_t to_index) noexcept
{
    const std::lock_guard lock{mutex_};
    engine::HandOver all;
    TRY(from.hand_over(all));
    TRY(to.take_over(all));
    // What `to` keeps of code may have been written since it was parked.
    for (const memory::Slot& slot : config_.memory.slots()) {
        config_.memory.written_elsewhere(slot.start, slot.size);
    }
    current_.store(to_index);
    ++switches_;
    return {};
}

base::Result<std::unique_ptr<bus::Doorbell>> SwitchingEngine::create()
{
    return base::host_error("Engines that take turns have no doorbells");
}

void SwitchingEngine::deliver(const bus::Msi& message) noexcept
{
    const std::lock_guard lock{mutex_};
    current().local_interrupts()->deliver(message);
}

void SwitchingEngine::set_external_interrupt(bool level) noexcept
{
    const std::lock_guard lock{mutex_};
    current().local_interrupts()->set_external_interrupt(level);
}

void SwitchingEngine::inject_nmi() noexcept
{
    const std::lock_guard lock{mutex_};
    current().local_interrupts()->inject_nmi();
}

void SwitchingEngine::counters(base::CounterList& list) const
{
    list.add("hand_over.switches", switches_.load());
    for (std::size_t i = 0; i < engines_.size(); ++i) {
        base::CounterList own;
        engines_[i]->counters(own);
        add_counters_of(list, i, own);
    }
}

void add_counters_of(base::CounterList& list, std::size_t engine, const base::CounterList& own)
{
    for (const auto& [name, value] : own.values()) {
        list.add(fmt::format("engine{}.{}", engine + 1, name), value);
    }
}

}  // namespace doppel::vm
