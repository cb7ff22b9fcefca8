#include "engine/translate/worker/virtual_cpu.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/counters.h"
#include "engine/translate/link/futex.h"
#include "engine/translate/worker/signals.h"
#include "x86/check_state.h"

namespace doppel::engine::translate {

using interpret::EoiOffer;

namespace {

std::uint64_t to_ns(const timespec& time)
{
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(time.tv_nsec);
}

constexpr std::uint64_t nmi_poll = 64;  // instructions

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
    halt_poll_.ended(halted, device_load_.busy(__builtin_ia32_rdtsc()));
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
