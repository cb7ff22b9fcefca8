#include "engine/translate/worker/virtual_cpu.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <utility>

#include "base/counters.h"
#include "engine/translate/link/arena.h"
#include "engine/translate/link/futex.h"
#include "engine/translate/worker/signals.h"
#include "x86/check_state.h"
#include "x86/msr.h"

namespace doppel::engine::translate {

using interpret::EoiOffer;

namespace {

std::uint64_t to_ns(const timespec& time)
{
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(time.tv_nsec);
}

constexpr std::uint64_t nmi_poll = 64;         // instructions
constexpr std::uint32_t eoi_register = 0x0b;   // of Environment::apic_write()
constexpr std::uint64_t timer_tolerance = 500;  // ns

x86::LapicConfig lapic_config(const WorkerResources& resources)
{
    x86::LapicConfig lapic;
    lapic.id = resources.index;
    lapic.bootstrap = resources.index == 0;
    lapic.tsc_hz = resources.clock.tsc_hz();
    lapic.physical_address_bits = resources.cpuid.physical_address_bits();
    return lapic;
}

}  // namespace

VirtualCpu::VirtualCpu(const WorkerResources& resources)
    : resources_(resources), mailbox_(resources.mailbox), seat_(resources.siblings.seat()),
      doorbells_(resources.doorbells), apic_(lapic_config(resources))
{
}

VirtualCpu::~VirtualCpu() = default;

base::Result<void> VirtualCpu::initialise()
{
    interpreter_ = TRY(interpret::Interpreter::create(resources_.memory, resources_.clock,
                                                      resources_.cpuid, *this));
    timer_ = resources_.clock.create_timer(
        [this] { timer_expired_.store(true, std::memory_order_relaxed); });
    TRY(handle_wakes(
        [](void* cpu, ucontext_t& context, Wake why) {
            auto* self = static_cast<VirtualCpu*>(cpu);
            self->wake();
            self->on_wake(context, why);
        },
        this));
    load_state(x86::reset_state(resources_.index == 0));
    return {};
}

// ---- requests ----------------------------------------------------------------------------------

void VirtualCpu::handle(Request request)
{
    Reply reply = Reply::done;
    switch (request) {
    case Request::run:
        if (mailbox_.answers_read != 0) interpreter_->complete_read(mailbox_.value);
        reply = run();
        break;
    case Request::complete_read:
        interpreter_->complete_read(mailbox_.value);
        break;
    case Request::get_state:
        export_state();
        save_state(mailbox_.state);
        break;
    case Request::set_state:
        load_state(mailbox_.state);
        state_loaded();
        break;
    case Request::hand_over:
        give(mailbox_.hand_over);
        break;
    case Request::take_over:
        if (const auto taken = take_over(mailbox_.hand_over); !taken) {
            set_text(mailbox_, taken.error().text());
            reply = Reply::error;
        }
        break;
    case Request::reset_apic:
        apic_.reset();
        nmi_pending_ = false;
        take_events(Taken::memory_alone);
        forget_ipis();
        apic_changed();
        break;
    case Request::counters:
        write_counters();
        break;
    case Request::none:
    case Request::source_answer:
    case Request::exit:
        break;
    }
    mailbox_.instructions = interpreter_->instructions();
    mailbox_.between_instructions = interpreter_->between_instructions() ? 1 : 0;
    resources_.link.answer(reply);
}

// ---- running -----------------------------------------------------------------------------------

Reply VirtualCpu::run()
{
    enter();
    const Reply reply = run_inside();
    resources_.siblings.leave();
    return reply;
}

void VirtualCpu::enter()
{
    resources_.siblings.enter();
    take_notes();
}

Reply VirtualCpu::run_inside()
{
    const std::uint64_t budget = mailbox_.budget;
    budget_end_ = budget == 0 ? 0 : interpreter_->instructions() + budget;
    interpreter_->runs_again();
    for (;;) {
        // Before looking at what it announces.
        seat_.attention.store(0, std::memory_order_seq_cst);
        if (mailbox_.kicked.exchange(0, std::memory_order_seq_cst) != 0) {
            ++counts_.kicks;
            interpreter_->stops_running();
            return Reply::kick;
        }
        take_events(Taken::all);
        take_ipis();
        note(apic_.on_time(now()));
        arm_timer();
        if (!may_run()) {
            interpreter_->stops_running();
            return Reply::halt;
        }
        inject_pending();
        if (budget_end_ != 0 && interpreter_->instructions() >= budget_end_) return Reply::kick;
        if (const auto reply = execute_once()) return *reply;
    }
}

bool VirtualCpu::may_run()
{
    const bool init = std::exchange(init_pending_, false);
    const std::uint32_t startup =
        seat_.startup.load(std::memory_order_relaxed) == 0 ? 0 : seat_.startup.exchange(0);
    const auto become = [this](const x86::CpuState& state) {
        const std::uint64_t offset = tsc_offset_;
        interpreter_->set_state(state);
        state_loaded();
        interpreter_->set_tsc_offset(offset);
    };
    if (init) {
        export_state();
        apic_.init();
        apic_changed();
        seat_.unhalted.store(0);
        become(x86::init_state(interpreter_->state()));
    }
    if (interpreter_->direct().state->events.activity != x86::Activity::wait_for_sipi) return true;
    if ((startup & startup_bit) == 0) return false;
    x86::CpuState state = interpreter_->state();
    x86::start_up(state, static_cast<std::uint8_t>(startup));
    become(state);
    return true;
}

std::optional<Reply> VirtualCpu::execute_once()
{
    interpreter_->request_interrupt_window(something_pending());
    std::uint64_t budget = budget_end_ == 0 ? 0 : budget_end_ - interpreter_->instructions();
    // Nothing tells when a blocked NMI becomes deliverable: look often.
    if (nmi_pending_) budget = budget == 0 ? nmi_poll : std::min(budget, nmi_poll);

    // Whoever sets `attention` looks at in_guest afterwards: one of the two sees the other.
    seat_.in_guest.store(in_guest_code, std::memory_order_seq_cst);
    if (seat_.attention.load(std::memory_order_seq_cst) != 0) {
        seat_.in_guest.store(in_engine, std::memory_order_relaxed);
        return std::nullopt;
    }
    offer_eoi();
    const Stop stop = advance(budget);
    seat_.in_guest.store(in_engine, std::memory_order_relaxed);
    settle_eoi(EoiOffer::withdraw);
    switch (stop) {
    case Stop::budget:
        return std::nullopt;
    case Stop::environment:
        if (const std::string why = failure(); !why.empty()) {
            set_text(mailbox_, why);
            return Reply::error;
        }
        [[fallthrough]];
    case Stop::attention:
        ++counts_.attention;
        return std::nullopt;
    case Stop::exit:
        break;
    }
    return answer_to(interpreter_->exit());
}

std::optional<Reply> VirtualCpu::answer_to(const Exit& exit)
{
    if (const auto* read = std::get_if<IoReadExit>(&exit)) {
        return access(Reply::io_read, read->port, read->size, 0);
    }
    if (const auto* write = std::get_if<IoWriteExit>(&exit)) {
        return access(Reply::io_write, write->port, write->size, write->value);
    }
    if (const auto* read = std::get_if<MmioReadExit>(&exit)) {
        return access(Reply::mmio_read, read->gpa.value, read->size, 0);
    }
    if (const auto* write = std::get_if<MmioWriteExit>(&exit)) {
        return access(Reply::mmio_write, write->gpa.value, write->size, write->value);
    }
    if (std::holds_alternative<HaltExit>(exit)) return halt();
    std::string text;
    Reply reply = Reply::error;
    if (const auto* shutdown = std::get_if<ShutdownExit>(&exit)) {
        reply = Reply::shutdown;
        text = shutdown->reason;
    } else if (const auto* error = std::get_if<ErrorExit>(&exit)) {
        text = error->reason;
    } else {
        return std::nullopt;
    }
    set_text(mailbox_, text);
    return reply;
}

std::optional<Reply> VirtualCpu::halt()
{
    // An interrupt that may be taken ends the halt at once.
    if (nmi_pending_ && interpreter_->nmi_allowed()) return std::nullopt;
    const bool enabled = interpreter_->interrupts_enabled();
    if (enabled && something_pending()) return std::nullopt;
    if (seat_.unhalted.load(std::memory_order_relaxed) != 0 && seat_.unhalted.exchange(0) != 0) {
        ++counts_.kicked_halts;
        interpreter_->wake();
        return std::nullopt;
    }
    ++counts_.halts;
    interpreter_->stops_running();
    // Another vCPU may end a halt without interrupts, and spinlocks of guests wait like that.
    if (!enabled && !resources_.siblings.any()) return Reply::halt;
    resources_.siblings.leave();
    sleep_in_hlt();
    enter();
    interpreter_->runs_again();
    return std::nullopt;
}

Reply VirtualCpu::access(Reply kind, std::uint64_t address, unsigned size, std::uint64_t value)
{
    ++(kind == Reply::io_read || kind == Reply::io_write ? counts_.io : counts_.mmio);
    mailbox_.address = address;
    mailbox_.size = size;
    mailbox_.reply_value = value;
    return kind;
}

void VirtualCpu::sleep_in_hlt()
{
    const auto deadline = apic_.next_deadline(now());
    timespec host{};
    const bool timed = deadline && resources_.clock.host_time(*deadline, host);
    device_load_.halted();
    const std::uint64_t since = monotonic_ns();
    look_for_attention(since, timed ? to_ns(host) : std::numeric_limits<std::uint64_t>::max());
    seat_.in_guest.store(asleep_in_hlt, std::memory_order_seq_cst);
    while (!called()) {
        if (timed && resources_.clock.now_ns() >= *deadline) break;
        futex_wait(seat_.attention, 0, timed ? &host : nullptr);
    }
    seat_.in_guest.store(in_engine, std::memory_order_relaxed);
    const std::uint64_t halted = monotonic_ns() - since;
    halt_poll_.ended(halted);
    halted_ns_ += halted;
    mailbox_.halted_ns.store(halted_ns_, std::memory_order_relaxed);
}

bool VirtualCpu::called() const noexcept
{
    return seat_.attention.load(std::memory_order_seq_cst) != 0 ||
           seat_.unhalted.load(std::memory_order_seq_cst) != 0;
}

// As the engine, which nobody need wake.
void VirtualCpu::look_for_attention(std::uint64_t now_ns, std::uint64_t deadline_ns)
{
    constexpr std::uint64_t preempted_ns = 20'000;
    const std::uint64_t until = std::min(now_ns + halt_poll_.window_ns(), deadline_ns);
    while (now_ns < until && !called()) {
        __builtin_ia32_pause();
        const std::uint64_t before = std::exchange(now_ns, monotonic_ns());
        if (now_ns - before > preempted_ns) return halt_poll_.contended();
    }
}

// ---- interrupts --------------------------------------------------------------------------------

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

// ---- what the interpreter asks -----------------------------------------------------------------

bool VirtualCpu::apic_read(std::uint32_t reg, std::uint64_t& value) noexcept
{
    settle_eoi(EoiOffer::keep);
    rejected_ = false;
    if (reg < x86::msr::IA32_X2APIC_FIRST) {
        value = apic_.read_mmio(reg << 4, 4, now());
        return true;
    }
    const auto read = apic_.read_msr(reg, now());
    rejected_ = !read.has_value();
    value = read.value_or(0);
    return read.has_value();
}

bool VirtualCpu::apic_write(std::uint32_t reg, std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    if ((reg & 0xff) == eoi_register) ++counts_.eoi_writes;
    x86::Effects effects;
    rejected_ = false;
    if (reg < x86::msr::IA32_X2APIC_FIRST) {
        effects = apic_.write_mmio(reg << 4, 4, value, now());
    } else {
        const auto written = apic_.write_msr(reg, value, now());
        rejected_ = !written.has_value();
        if (rejected_) return false;
        effects = *written;
    }
    apic_changed();
    carry_out(effects);
    // TPR, EOI and self-IPIs may have made something deliverable.
    want_interrupt_window(something_pending());
    return true;
}

unsigned VirtualCpu::send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    unsigned taken = resources_.siblings.send(message, apic_ids);
    if ((apic_ids >> apic_.id() & 1) != 0 && apic_.address().takes(message.mode)) {
        accept_own(message);
        ++taken;
    }
    want_interrupt_window(something_pending());
    return taken;
}

void VirtualCpu::set_cr8(std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::keep);
    apic_.set_cr8(value);
    want_interrupt_window(something_pending());
}

void VirtualCpu::set_apic_base(std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    rejected_ = !apic_.write_apic_base(value, now());
    apic_changed();
}

void VirtualCpu::set_tsc_deadline(std::uint64_t value) noexcept
{
    apic_.write_tsc_deadline(value, now());
    arm_timer();
    // A deadline in the past fires at the next look.
    const auto deadline = apic_.next_deadline(now());
    if (deadline && *deadline <= resources_.clock.now_ns()) interpreter_->request_attention();
}

bool VirtualCpu::ring(bus::Space space, std::uint64_t address, unsigned size,
                      std::uint64_t value) noexcept
{
    const auto index = doorbells_.find(space, address, size, value);
    if (!index) return false;
    ++counts_.doorbells;
    // EAGAIN: nobody has looked for very many rings, and it is readable.
    // While there are many, its thread stays away from this processor.
    const std::uint64_t tsc = __builtin_ia32_rdtsc();
    device_load_.rang(tsc);
    const std::uint64_t ring = bus::ring_value(device_load_.busy(tsc) ? this_processor() : 0);
    static_cast<void>(::write(doorbell_fd + static_cast<int>(*index), &ring, sizeof ring));
    return true;
}

void VirtualCpu::tsc_offset_changed(std::uint64_t offset) noexcept
{
    tsc_offset_ = offset;
    if (timer_ != nullptr) arm_timer();
}

std::uint64_t VirtualCpu::steal_ns() noexcept
{
    // The VMM measures ten times a second. A guest that counts by its ticks expects no more of a
    // tick to be stolen than there was of it: what is left is for the next ones.
    const std::uint64_t now_ns = resources_.clock.now_ns();
    const std::uint64_t measured = mailbox_.steal_ns.load(std::memory_order_relaxed);
    steal_told_ += std::min(measured - steal_told_, now_ns - steal_told_at_ns_);
    steal_told_at_ns_ = now_ns;
    return steal_told_;
}

// ---- state -------------------------------------------------------------------------------------

void VirtualCpu::save_state(x86::CpuState& state) const
{
    state = interpreter_->state();
    state.apic_base = apic_.apic_base();
    state.tsc_deadline = apic_.state().tsc_deadline;
    state.events.nmi_pending = nmi_pending_;
    state.events.unhalted = seat_.unhalted.load(std::memory_order_relaxed) != 0;
}

void VirtualCpu::load_state(const x86::CpuState& state)
{
    interpreter_->set_state(state);
    const std::uint64_t common =
        resources_.siblings.common_tsc_offset(tsc_offset_, resources_.clock.tsc_hz());
    if (common != tsc_offset_) interpreter_->set_tsc_offset(common);
    apic_.load_apic_base(state.apic_base);
    apic_.load_tsc_deadline(state.tsc_deadline);
    nmi_pending_ = state.events.nmi_pending;
    seat_.unhalted.store(state.events.unhalted ? 1 : 0, std::memory_order_relaxed);
    apic_changed();
}

void VirtualCpu::give(HandOver& to)
{
    take_events(Taken::all);
    export_state();
    save_state(to.cpu);
    to.apic = apic_.state();
    to.tsc_offset = tsc_offset_;
}

base::Result<void> VirtualCpu::take_over(const HandOver& from)
{
    TRY(x86::check_state(from.cpu, resources_.cpuid));
    TRY(apic_.load(from.apic));
    load_state(from.cpu);
    state_loaded();
    interpreter_->set_tsc_offset(from.tsc_offset);
    return {};
}

void VirtualCpu::counters(base::CounterList& list) const
{
    list.add("worker.io_exits", counts_.io);
    list.add("worker.mmio_exits", counts_.mmio);
    list.add("doorbells.rung", counts_.doorbells);
    list.add("worker.halts", counts_.halts);
    list.add("worker.kick_exits", counts_.kicks);
    list.add("worker.attention_exits", counts_.attention);
    list.add("worker.interrupts", counts_.interrupts);
    list.add("worker.nmis", counts_.nmis);
    list.add("worker.timers_armed", counts_.timers_armed);
    list.add("apic.eoi_writes", counts_.eoi_writes);
    list.add("apic.silent_eois", counts_.silent_eois);
    list.add("hypercalls.kicked_halts", counts_.kicked_halts);
    resources_.siblings.counters(list);
    interpreter_->counters(list);
}

void VirtualCpu::write_counters()
{
    base::CounterList list;
    counters(list);
    std::string text;
    for (const auto& [name, value] : list.values()) {
        text += name + " " + std::to_string(value) + "\n";
    }
    set_text(mailbox_, text);
}

}  // namespace doppel::engine::translate
