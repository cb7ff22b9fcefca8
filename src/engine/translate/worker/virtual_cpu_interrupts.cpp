// Interrupts on their way to a virtual CPU: from the VMM and from its siblings, into the guest.
#include <bit>
#include <utility>

#include "engine/translate/worker/virtual_cpu.h"

namespace doppel::engine::translate {

using interpret::EoiOffer;

namespace {

constexpr std::uint64_t timer_tolerance = 500;  // ns

}  // namespace

void VirtualCpu::take_events(Taken which)
{
    const std::uint32_t head = mailbox_.event_head.load(std::memory_order_acquire);
    if (mailbox_.all_memory_written.exchange(0, std::memory_order_acq_rel) != 0) {
        for (const memory::Slot& slot : resources_.memory.slots()) {
            resources_.memory.written_elsewhere(slot.start, slot.size);
        }
    }
    std::uint32_t tail = mailbox_.event_tail.load(std::memory_order_relaxed);
    for (; tail != head; ++tail) {
        const Event event = mailbox_.events[tail % event_count];
        mailbox_.event_tail.store(tail + 1, std::memory_order_release);
        if (which == Taken::all || event.kind == Event::memory_written) take(event);
    }
}

void VirtualCpu::take(const Event& event)
{
    switch (event.kind) {
    case Event::msi: {
        const auto message = x86::decode_msi(event.address, static_cast<std::uint32_t>(event.data));
        if (message && apic_.matches(*message, false)) note(apic_.accept(*message));
        break;
    }
    case Event::external_interrupt:
        note(apic_.set_lint(0, event.level != 0));
        break;
    case Event::nmi:
        note(apic_.set_lint(1, true));
        note(apic_.set_lint(1, false));
        break;
    case Event::memory_written:
        resources_.memory.written_elsewhere(base::Gpa{event.address}, event.data);
        break;
    }
}

void VirtualCpu::take_ipis()
{
    if (!resources_.siblings.any()) return;
    if (seat_.init.load(std::memory_order_relaxed) != 0 && seat_.init.exchange(0) != 0) {
        note(x86::Accepted::init);
    }
    for (unsigned i = 0; i < std::size(seat_.vectors); ++i) {
        if (seat_.vectors[i].load(std::memory_order_relaxed) == 0) continue;
        for (std::uint64_t left = seat_.vectors[i].exchange(0); left != 0; left &= left - 1) {
            x86::ApicMessage message;
            message.vector = static_cast<std::uint8_t>(64 * i + static_cast<unsigned>(std::countr_zero(left)));
            note(apic_.accept(message));
        }
    }
    if (seat_.nmi.load(std::memory_order_relaxed) != 0 && seat_.nmi.exchange(0) != 0) {
        note(x86::Accepted::nmi);
    }
}

void VirtualCpu::forget_ipis()
{
    init_pending_ = false;
    for (auto& vectors : seat_.vectors) vectors.store(0);
    seat_.nmi.store(0);
    seat_.init.store(0);
    seat_.startup.store(0);
    seat_.unhalted.store(0);
}

void VirtualCpu::inject_pending()
{
    if (nmi_pending_ && interpreter_->nmi_allowed()) {
        nmi_pending_ = false;
        ++counts_.nmis;
        interpreter_->deliver_nmi();
        return;
    }
    if (!interpreter_->interruptible()) return;
    std::uint8_t vector = 0;
    if (apic_.external_pending()) {
        vector = static_cast<std::uint8_t>(resources_.link.ask(Reply::acknowledge, 0));
    } else if (apic_.pending_interrupt()) {
        vector = apic_.acknowledge();
    } else {
        return;
    }
    ++counts_.interrupts;
    interpreter_->deliver_interrupt(vector);
}

void VirtualCpu::offer_eoi() noexcept
{
    if (apic_.eoi_is_silent()) interpreter_->offer_eoi();
}

void VirtualCpu::settle_eoi(EoiOffer offer) noexcept
{
    if (!interpreter_->eoi_taken(offer)) return;
    ++counts_.silent_eois;
    apic_.silent_eoi();
}

bool VirtualCpu::something_pending() const
{
    return apic_.external_pending() || apic_.pending_interrupt().has_value();
}

void VirtualCpu::note(x86::Accepted accepted) noexcept
{
    if (accepted == x86::Accepted::nmi) nmi_pending_ = true;
    if (accepted == x86::Accepted::init) {
        init_pending_ = true;
        nmi_pending_ = false;
    }
}

// What it sent to itself. An NMI waits for no window.
void VirtualCpu::accept_own(const x86::ApicMessage& message) noexcept
{
    note(apic_.accept(message));
    if (nmi_pending_) want_return();
}

void VirtualCpu::carry_out(const x86::Effects& effects) noexcept
{
    if (effects.ipi) {
        if (resources_.siblings.mine(*effects.ipi)) accept_own(*effects.ipi);
        resources_.siblings.send(*effects.ipi);
    }
    if (effects.end_of_interrupt) {
        static_cast<void>(resources_.link.ask(Reply::end_of_interrupt, *effects.end_of_interrupt));
    }
}

x86::ApicTime VirtualCpu::now() const
{
    return {resources_.clock.now_ns(), resources_.clock.tsc() + tsc_offset_};
}

void VirtualCpu::apic_changed() noexcept
{
    arm_timer();
    const x86::LocalApic::Address address = apic_.address();
    if (address == apic_address_) return;
    apic_address_ = address;
    seat_.apic_address.store(pack(address), std::memory_order_seq_cst);
}

void VirtualCpu::arm_timer() noexcept
{
    if (timer_expired_.exchange(false, std::memory_order_relaxed)) armed_ns_ = 0;
    const std::uint64_t deadline = apic_.next_deadline(now()).value_or(0);
    // A TSC deadline becomes nanoseconds anew each time, and not always the same ones.
    const std::uint64_t difference =
        deadline > armed_ns_ ? deadline - armed_ns_ : armed_ns_ - deadline;
    if (armed_ns_ != 0 && deadline != 0 ? difference < timer_tolerance : difference == 0) return;
    armed_ns_ = deadline;
    if (deadline == 0) {
        timer_->cancel();
    } else {
        ++counts_.timers_armed;
        timer_->arm(deadline);
    }
}

}  // namespace doppel::engine::translate
