// The APIC timer. SDM volume 3 section 11.5.4.
//
// One-shot and periodic: timer_count was the current count at timer_start_ns, and zero
// means stopped. TSC-deadline: state_.tsc_deadline, zero means not armed.
#include "x86/lapic/lapic.h"
#include "x86/lapic/registers.h"

namespace doppel::x86 {

using namespace apic;

namespace {

__extension__ using Wide = unsigned __int128;

static_assert(apic_bus_hz == 1'000'000'000, "one bus tick is one nanosecond below");

}  // namespace

unsigned LocalApic::timer_divide() const
{
    // Bits 3, 1 and 0: 000 is 2, 001 is 4, ... 110 is 128, 111 is 1.
    const std::uint32_t code = (reg(DIVIDE) & 3) | ((reg(DIVIDE) >> 1) & 4);
    return code == 7 ? 1 : 2u << code;
}

std::uint64_t LocalApic::count_expiry_ns() const
{
    return state_.timer_start_ns + std::uint64_t{state_.timer_count} * timer_divide();
}

std::uint32_t LocalApic::current_count(std::uint64_t now_ns) const
{
    if (state_.timer_count == 0) return 0;
    const std::uint64_t start = state_.timer_start_ns;
    const std::uint64_t ticks = now_ns > start ? (now_ns - start) / timer_divide() : 0;
    return ticks >= state_.timer_count ? 0 : state_.timer_count - static_cast<std::uint32_t>(ticks);
}

std::uint64_t LocalApic::tsc_deadline(const ApicTime& time)
{
    static_cast<void>(on_time(time));
    const bool deadline_mode = (reg(LVT_TIMER) & lvt::TIMER_MODE) == lvt::TSC_DEADLINE;
    return deadline_mode ? state_.tsc_deadline : 0;
}

void LocalApic::write_tsc_deadline(std::uint64_t value, const ApicTime& time)
{
    static_cast<void>(on_time(time));
    if ((reg(LVT_TIMER) & lvt::TIMER_MODE) != lvt::TSC_DEADLINE) return;
    state_.tsc_deadline = value;
}

std::optional<std::uint64_t> LocalApic::next_deadline(const ApicTime& time) const
{
    if (!enabled() || (reg(LVT_TIMER) & lvt::MASKED) != 0) return std::nullopt;
    if ((reg(LVT_TIMER) & lvt::TIMER_MODE) == lvt::TSC_DEADLINE) {
        if (state_.tsc_deadline == 0) return std::nullopt;
        if (state_.tsc_deadline <= time.tsc) return time.now_ns;
        const Wide ticks = state_.tsc_deadline - time.tsc;
        const Wide ns = (ticks * 1'000'000'000 + config_.tsc_hz - 1) / config_.tsc_hz + time.now_ns;
        // Guests write all ones for "never".
        return ns > ~std::uint64_t{0} ? ~std::uint64_t{0} : static_cast<std::uint64_t>(ns);
    }
    if (state_.timer_count == 0) return std::nullopt;
    return count_expiry_ns();
}

Accepted LocalApic::on_time(const ApicTime& time)
{
    const std::uint32_t mode = reg(LVT_TIMER) & lvt::TIMER_MODE;
    if (mode == lvt::TSC_DEADLINE) {
        if (state_.tsc_deadline == 0 || time.tsc < state_.tsc_deadline) return Accepted::ignored;
        state_.tsc_deadline = 0;
        return trigger_lvt(LVT_TIMER);
    }
    if (state_.timer_count == 0 || time.now_ns < count_expiry_ns()) return Accepted::ignored;
    const std::uint64_t expiry = count_expiry_ns();
    const std::uint32_t initial = reg(INITIAL_COUNT);
    if (mode == lvt::PERIODIC && initial != 0) {
        const std::uint64_t period = std::uint64_t{initial} * timer_divide();
        state_.timer_start_ns = expiry + (time.now_ns - expiry) / period * period;
        state_.timer_count = initial;
    } else {
        state_.timer_count = 0;
    }
    return trigger_lvt(LVT_TIMER);
}

}  // namespace doppel::x86
