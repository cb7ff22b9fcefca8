#include "engine/interpret/vcpu.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>

#include "x86/check_state.h"
#include "x86/msr.h"

namespace doppel::engine::interpret {

namespace {

x86::LapicConfig lapic_config(const EngineConfig& config, unsigned index)
{
    x86::LapicConfig lapic;
    lapic.id = index;
    lapic.bootstrap = index == 0;
    lapic.tsc_hz = config.clock.tsc_hz();
    lapic.physical_address_bits = config.cpuid.physical_address_bits();
    return lapic;
}

constexpr std::uint64_t nmi_poll = 64;        // instructions
constexpr std::uint32_t eoi_register = 0x0b;  // of Environment::apic_write()

bool is_apic_msr(std::uint32_t reg) { return reg >= x86::msr::IA32_X2APIC_FIRST; }

}  // namespace

InterpretVcpu::InterpretVcpu(const EngineConfig& config, ApicRouter& router, unsigned index)
    : router_(router), clock_(config.clock), cpuid_(config.cpuid),
      apic_(lapic_config(config, index))
{
}

InterpretVcpu::~InterpretVcpu()
{
    // The callback must not find a half-destroyed object.
    timer_.reset();
}

base::Result<std::unique_ptr<InterpretVcpu>> InterpretVcpu::create(const EngineConfig& config,
                                                                   ApicRouter& router,
                                                                   unsigned index)
{
    std::unique_ptr<InterpretVcpu> vcpu{new InterpretVcpu{config, router, index}};
    vcpu->interpreter_ =
        TRY(Interpreter::create(config.memory, config.clock, config.cpuid, *vcpu,
                                {router.shared_code(), index}));
    vcpu->timer_ = config.clock.create_timer([raw = vcpu.get()] { raw->signal(); });
    vcpu->set_state(x86::reset_state(index == 0));
    return vcpu;
}

// ---- run loop --------------------------------------------------------------------------------

Exit InterpretVcpu::run() noexcept
{
    budget_end_ = budget_ == 0 ? 0 : interpreter_->instructions() + budget_;
    interpreter_->runs_again();
    for (;;) {
        if (kicked_.exchange(false, std::memory_order_acquire)) {
            ++counts_.kicks;
            interpreter_->stops_running();
            return KickExit{};
        }
        event_.store(false, std::memory_order_seq_cst);
        {
            const std::lock_guard lock{apic_mutex_};
            note(apic_.on_time(now()));
            arm_timer();
        }
        if (!may_run()) {
            interpreter_->stops_running();
            return HaltExit{};
        }
        inject_pending();
        if (budget_end_ != 0 && interpreter_->instructions() >= budget_end_) return KickExit{};
        if (auto exit = execute_once()) return std::move(*exit);
    }
}

bool InterpretVcpu::may_run() noexcept
{
    x86::CpuState* const state = interpreter_->direct().state;
    bool init = false;
    std::optional<std::uint8_t> startup;
    {
        const std::lock_guard lock{apic_mutex_};
        init = std::exchange(init_pending_, false);
        if (init) {
            apic_.init();
            unhalted_.store(false, std::memory_order_relaxed);
        }
        startup = std::exchange(startup_, std::nullopt);
    }
    if (init) {
        const std::uint64_t offset = tsc_offset_.load(std::memory_order_relaxed);
        interpreter_->set_state(x86::init_state(interpreter_->state()));
        interpreter_->set_tsc_offset(offset);
    }
    if (state->events.activity != x86::Activity::wait_for_sipi) return true;
    if (!startup) return false;
    x86::CpuState started = interpreter_->state();
    x86::start_up(started, *startup);
    const std::uint64_t offset = tsc_offset_.load(std::memory_order_relaxed);
    interpreter_->set_state(started);
    interpreter_->set_tsc_offset(offset);
    return true;
}

std::optional<Exit> InterpretVcpu::execute_once() noexcept
{
    interpreter_->request_interrupt_window(something_pending());
    std::uint64_t budget = budget_end_ == 0 ? 0 : budget_end_ - interpreter_->instructions();
    // Nothing tells when a blocked NMI becomes deliverable: look often.
    if (nmi_waiting()) budget = budget == 0 ? nmi_poll : std::min(budget, nmi_poll);
    offer_eoi();
    const Interpreter::Stop stop = interpreter_->execute(budget);
    settle_eoi(EoiOffer::withdraw);
    switch (stop) {
    case Interpreter::Stop::budget:
        return std::nullopt;
    case Interpreter::Stop::attention:
    case Interpreter::Stop::environment:
        ++counts_.attention;
        return std::nullopt;
    case Interpreter::Stop::exit:
        break;
    }
    const Exit& exit = interpreter_->exit();
    if (std::holds_alternative<HaltExit>(exit)) {
        // An interrupt that may be taken ends the halt at once: back to the run loop.
        if (nmi_waiting() && interpreter_->nmi_allowed()) return std::nullopt;
        if (interpreter_->interrupts_enabled() && something_pending()) return std::nullopt;
        if (unhalted_.exchange(false, std::memory_order_seq_cst)) {
            ++counts_.kicked_halts;
            interpreter_->wake();
            return std::nullopt;
        }
        ++counts_.halts;
        interpreter_->stops_running();
    } else if (std::holds_alternative<IoReadExit>(exit) ||
               std::holds_alternative<IoWriteExit>(exit)) {
        ++counts_.io;
    } else if (std::holds_alternative<MmioReadExit>(exit) ||
               std::holds_alternative<MmioWriteExit>(exit)) {
        ++counts_.mmio;
    }
    return exit;
}

void InterpretVcpu::offer_eoi() noexcept
{
    // Whatever is requested later makes the run loop look, and this is taken back.
    const std::lock_guard lock{apic_mutex_};
    if (apic_.eoi_is_silent()) interpreter_->offer_eoi();
}

void InterpretVcpu::settle_eoi(EoiOffer offer) noexcept
{
    if (!interpreter_->eoi_taken(offer)) return;
    ++counts_.silent_eois;
    const std::lock_guard lock{apic_mutex_};
    apic_.silent_eoi();
}

bool InterpretVcpu::something_pending() noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return apic_.external_pending() || apic_.pending_interrupt().has_value();
}

bool InterpretVcpu::nmi_waiting() noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return nmi_pending_;
}

bool InterpretVcpu::inject_pending() noexcept
{
    bool from_pic = false;
    std::uint8_t vector = 0;
    {
        const std::lock_guard lock{apic_mutex_};
        if (nmi_pending_ && interpreter_->nmi_allowed()) {
            nmi_pending_ = false;
            ++counts_.nmis;
            interpreter_->deliver_nmi();
            return true;
        }
        if (!interpreter_->interruptible()) return false;
        if (apic_.external_pending() && router_.source() != nullptr) {
            from_pic = true;
        } else if (apic_.pending_interrupt()) {
            vector = apic_.acknowledge();
        } else {
            return false;
        }
    }
    if (from_pic) vector = router_.source()->acknowledge();
    ++counts_.interrupts;
    interpreter_->deliver_interrupt(vector);
    return true;
}

void InterpretVcpu::complete_read(std::uint64_t value) noexcept
{
    interpreter_->complete_read(value);
}

void InterpretVcpu::signal() noexcept
{
    event_.store(true, std::memory_order_seq_cst);
    interpreter_->request_attention();
    wake();
}

void InterpretVcpu::wake() noexcept
{
    // Taking the mutex orders this with a waiter between its check and its sleep.
    { const std::lock_guard lock{wait_mutex_}; }
    wait_.notify_one();
}

void InterpretVcpu::kick() noexcept
{
    kicked_.store(true, std::memory_order_release);
    signal();
}

void InterpretVcpu::wait() noexcept
{
    for (;;) {
        std::optional<std::uint64_t> deadline;
        {
            const std::lock_guard lock{apic_mutex_};
            deadline = apic_.next_deadline(now());
        }
        const auto awake = [this] {
            return event_.load(std::memory_order_seq_cst) || kicked_.load(std::memory_order_acquire);
        };
        std::unique_lock lock{wait_mutex_};
        if (!deadline) {
            wait_.wait(lock, awake);
            return;
        }
        const std::uint64_t now_ns = clock_.now_ns();
        if (*deadline <= now_ns || awake()) return;
        if (wait_.wait_for(lock, std::chrono::nanoseconds{*deadline - now_ns}, awake)) return;
    }
}

// ---- interrupts --------------------------------------------------------------------------------

x86::ApicTime InterpretVcpu::now() const
{
    return {clock_.now_ns(), clock_.tsc() + tsc_offset_.load(std::memory_order_relaxed)};
}

void InterpretVcpu::note(x86::Accepted accepted) noexcept
{
    if (accepted == x86::Accepted::nmi) nmi_pending_ = true;
    // A SIPI that came before the INIT is none.
    if (accepted == x86::Accepted::init) {
        init_pending_ = true;
        startup_.reset();
        nmi_pending_ = false;
    }
}

void InterpretVcpu::arm_timer() noexcept
{
    const std::uint64_t deadline = apic_.next_deadline(now()).value_or(0);
    if (deadline == armed_ns_) return;
    armed_ns_ = deadline;
    if (deadline == 0) {
        timer_->cancel();
    } else {
        timer_->arm(deadline);
    }
}

bool InterpretVcpu::matches(const x86::ApicMessage& message, bool sender) noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return apic_.matches(message, sender);
}

std::uint8_t InterpretVcpu::arbitration_priority() noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return apic_.arbitration_priority();
}

void InterpretVcpu::accept(const x86::ApicMessage& message) noexcept
{
    {
        const std::lock_guard lock{apic_mutex_};
        const x86::Accepted accepted = apic_.accept(message);
        note(accepted);
        if (accepted == x86::Accepted::startup) startup_ = message.vector;
    }
    signal();
}

bool InterpretVcpu::takes(x86::DeliveryMode mode) noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return apic_.address().takes(mode);
}

void InterpretVcpu::end_halt() noexcept
{
    // One that runs looks when it halts.
    unhalted_.store(true, std::memory_order_seq_cst);
    event_.store(true, std::memory_order_seq_cst);
    wake();
}

void InterpretVcpu::set_external_interrupt(bool level) noexcept
{
    {
        const std::lock_guard lock{apic_mutex_};
        note(apic_.set_lint(0, level));
    }
    if (level) signal();
}

void InterpretVcpu::inject_nmi() noexcept
{
    {
        const std::lock_guard lock{apic_mutex_};
        note(apic_.set_lint(1, true));
        note(apic_.set_lint(1, false));
    }
    signal();
}

void InterpretVcpu::reset_apic() noexcept
{
    const std::lock_guard lock{apic_mutex_};
    apic_.reset();
    nmi_pending_ = false;
    init_pending_ = false;
    startup_.reset();
    unhalted_.store(false, std::memory_order_relaxed);
    arm_timer();
}

void InterpretVcpu::carry_out(const x86::Effects& effects) noexcept
{
    if (effects.ipi) router_.route(*effects.ipi, apic_.id());
    if (effects.end_of_interrupt && router_.source() != nullptr) {
        router_.source()->end_of_interrupt(*effects.end_of_interrupt);
    }
}

// ---- what the interpreter asks -------------------------------------------------------------------

bool InterpretVcpu::apic_read(std::uint32_t reg, std::uint64_t& value) noexcept
{
    settle_eoi(EoiOffer::keep);
    const std::lock_guard lock{apic_mutex_};
    rejected_ = false;
    if (!is_apic_msr(reg)) {
        value = apic_.read_mmio(reg << 4, 4, now());
        return true;
    }
    const auto read = apic_.read_msr(reg, now());
    rejected_ = !read.has_value();
    value = read.value_or(0);
    return read.has_value();
}

bool InterpretVcpu::apic_write(std::uint32_t reg, std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    if ((reg & 0xff) == eoi_register) ++counts_.eoi_writes;
    x86::Effects effects;
    {
        const std::lock_guard lock{apic_mutex_};
        rejected_ = false;
        if (is_apic_msr(reg)) {
            const auto written = apic_.write_msr(reg, value, now());
            rejected_ = !written.has_value();
            if (rejected_) return false;
            effects = *written;
        } else {
            effects = apic_.write_mmio(reg << 4, 4, value, now());
        }
        arm_timer();
    }
    carry_out(effects);
    // TPR, EOI and self-IPIs may have made something deliverable.
    interpreter_->request_interrupt_window(something_pending());
    return true;
}

unsigned InterpretVcpu::send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    const unsigned taken = router_.send_ipis(apic_ids, message);
    interpreter_->request_interrupt_window(something_pending());
    return taken;
}

std::uint64_t InterpretVcpu::cr8() noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return apic_.cr8();
}

void InterpretVcpu::set_cr8(std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::keep);
    {
        const std::lock_guard lock{apic_mutex_};
        apic_.set_cr8(value);
    }
    interpreter_->request_interrupt_window(something_pending());
}

void InterpretVcpu::set_apic_base(std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    const std::lock_guard lock{apic_mutex_};
    rejected_ = !apic_.write_apic_base(value, now());
    arm_timer();
}

void InterpretVcpu::set_tsc_deadline(std::uint64_t value) noexcept
{
    const std::lock_guard lock{apic_mutex_};
    apic_.write_tsc_deadline(value, now());
    arm_timer();
    // A deadline in the past fires at the next look.
    const auto deadline = apic_.next_deadline(now());
    if (deadline && *deadline <= clock_.now_ns()) interpreter_->request_attention();
}

std::uint64_t InterpretVcpu::tsc_deadline() noexcept
{
    const std::lock_guard lock{apic_mutex_};
    return apic_.tsc_deadline(now());
}

void InterpretVcpu::tsc_offset_changed(std::uint64_t offset) noexcept
{
    tsc_offset_.store(offset, std::memory_order_relaxed);
    if (timer_ == nullptr) return;
    const std::lock_guard lock{apic_mutex_};
    arm_timer();
}

// The scheduler's account of the thread: time on a processor, time waiting for one, turns.
std::uint64_t InterpretVcpu::steal_ns() noexcept
{
    const int tid = ::gettid();
    if (run_delay_tid_ != tid) {
        run_delay_ = base::Fd{::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)};
        run_delay_tid_ = tid;
    }
    std::array<char, 96> text{};
    if (!run_delay_.valid() || ::pread(run_delay_.get(), text.data(), text.size() - 1, 0) <= 0) {
        return 0;
    }
    char* rest = nullptr;
    static_cast<void>(std::strtoull(text.data(), &rest, 10));
    return std::strtoull(rest, nullptr, 10);
}

// ---- state ------------------------------------------------------------------------------------------

x86::CpuState InterpretVcpu::state() noexcept
{
    x86::CpuState state = interpreter_->state();
    const std::lock_guard lock{apic_mutex_};
    state.apic_base = apic_.apic_base();
    state.tsc_deadline = apic_.state().tsc_deadline;
    state.events.nmi_pending = nmi_pending_;
    state.events.unhalted = unhalted_.load(std::memory_order_relaxed);
    return state;
}

void InterpretVcpu::set_state(const x86::CpuState& state) noexcept
{
    interpreter_->set_state(state);
    const std::uint64_t offset = tsc_offset_.load(std::memory_order_relaxed);
    const std::uint64_t common = router_.common_tsc_offset(offset);
    if (common != offset) interpreter_->set_tsc_offset(common);
    const std::lock_guard lock{apic_mutex_};
    apic_.load_apic_base(state.apic_base);
    apic_.load_tsc_deadline(state.tsc_deadline);
    nmi_pending_ = state.events.nmi_pending;
    unhalted_.store(state.events.unhalted, std::memory_order_relaxed);
    arm_timer();
}

base::Result<void> InterpretVcpu::hand_over(HandOver& to) noexcept
{
    to.cpu = state();
    to.tsc_offset = tsc_offset_.load(std::memory_order_relaxed);
    const std::lock_guard lock{apic_mutex_};
    to.apic = apic_.state();
    return {};
}

base::Result<void> InterpretVcpu::take_over(const HandOver& from) noexcept
{
    TRY(x86::check_state(from.cpu, cpuid_));
    {
        const std::lock_guard lock{apic_mutex_};
        TRY(apic_.load(from.apic));
    }
    set_state(from.cpu);
    interpreter_->set_tsc_offset(from.tsc_offset);
    return {};
}

void InterpretVcpu::counters(base::CounterList& list) const
{
    list.add("exits.io", counts_.io);
    list.add("exits.mmio", counts_.mmio);
    list.add("exits.halt", counts_.halts);
    list.add("exits.kick", counts_.kicks);
    list.add("exits.attention", counts_.attention);
    list.add("injected.interrupts", counts_.interrupts);
    list.add("injected.nmis", counts_.nmis);
    list.add("apic.eoi_writes", counts_.eoi_writes);
    list.add("apic.silent_eois", counts_.silent_eois);
    list.add("hypercalls.kicked_halts", counts_.kicked_halts);
    interpreter_->counters(list);
}

}  // namespace doppel::engine::interpret
