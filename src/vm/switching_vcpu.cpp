#include "vm/switching_vcpu.h"

#include <algorithm>

#include "vm/switching_engine.h"

namespace doppel::vm {

using engine::Exit;

namespace {

// Of two limits, where 0 is none.
std::uint64_t nearer(std::uint64_t a, std::uint64_t b)
{
    if (a == 0 || b == 0) return a + b;
    return std::min(a, b);
}

}  // namespace

SwitchingVcpu::SwitchingVcpu(SwitchingEngine& engine,
                             std::vector<std::unique_ptr<engine::Vcpu>> vcpus)
    : engine_(engine), vcpus_(std::move(vcpus))
{
}

SwitchingVcpu::~SwitchingVcpu() { engine_.vcpu_ = nullptr; }

engine::Vcpu& SwitchingVcpu::current() const noexcept { return *vcpus_[engine_.current_.load()]; }

std::uint64_t SwitchingVcpu::limit() const noexcept
{
    return stretches_ < engine_.limits_.size() ? engine_.limits_[stretches_] : 0;
}

std::uint64_t SwitchingVcpu::stretch() const noexcept
{
    return current().instructions() - stretch_begin_;
}

bool SwitchingVcpu::switch_due() const noexcept
{
    return requests_.load() != 0 || (limit() != 0 && stretch() >= limit());
}

Exit SwitchingVcpu::run() noexcept
{
    const std::uint64_t end = budget_ == 0 ? 0 : instructions() + budget_;
    for (;;) {
        // Before it is looked at who is current: kick() looks at that second.
        if (kicked_.exchange(false)) return engine::KickExit{};
        if (end != 0 && instructions() >= end) return engine::KickExit{};
        const bool due = switch_due();
        if (due && current().between_instructions()) {
            if (const auto switched = switch_engine(); !switched) {
                return engine::ErrorExit{switched.error().text()};
            }
            continue;
        }
        // One that is under way has to be finished first.
        std::uint64_t budget = due ? 1 : 0;
        if (!due && limit() != 0) budget = limit() - stretch();
        if (end != 0) budget = nearer(budget, end - instructions());
        current().set_budget(budget);
        Exit exit = current().run();
        // Its budget, a switch, or a kick that it got before it was parked: look again.
        if (!std::holds_alternative<engine::KickExit>(exit)) return exit;
    }
}

base::Result<void> SwitchingVcpu::switch_engine() noexcept
{
    const std::size_t from = engine_.current_.load();
    const std::size_t to = (from + 1) % vcpus_.size();
    if (requests_.load() != 0) --requests_;
    TRY(engine_.move(*vcpus_[from], *vcpus_[to], to));
    ++stretches_;
    stretch_begin_ = vcpus_[to]->instructions();
    return {};
}

void SwitchingVcpu::request_switch() noexcept
{
    ++requests_;
    current().kick();
}

// The flag comes first: run() sees it when this finds the engine that has just been left.
void SwitchingVcpu::kick() noexcept
{
    kicked_.store(true);
    current().kick();
}

std::uint64_t SwitchingVcpu::instructions() const noexcept
{
    std::uint64_t sum = 0;
    for (const auto& vcpu : vcpus_) sum += vcpu->instructions();
    return sum;
}

void SwitchingVcpu::counters(base::CounterList& list) const
{
    for (std::size_t i = 0; i < vcpus_.size(); ++i) {
        base::CounterList own;
        vcpus_[i]->counters(own);
        add_counters_of(list, i, own);
    }
}

engine::RunTime SwitchingVcpu::run_time() const
{
    engine::RunTime time;
    for (const auto& vcpu : vcpus_) time.halted_ns += vcpu->run_time().halted_ns;
    return time;
}

}  // namespace doppel::vm
