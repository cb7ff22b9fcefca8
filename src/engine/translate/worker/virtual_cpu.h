// A vCPU in the worker but for how it executes: local APIC, interrupts, halts, time and the
// mailbox. What executes is advance(): the interpreter here, translated code in a subclass.
//
//   Request::run ─▶ run() = { events; timer; inject; advance(); exits, HLT } ─▶ Reply
//                     ▲ attention: kick signal, timer signal, or a wake in HLT
//
// All on the vCPU thread; wake() alone also runs in signal handlers.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "engine/interpret/interpreter.h"
#include "engine/translate/space/device_load.h"
#include "engine/translate/worker/cpu_interface.h"
#include "engine/translate/worker/doorbells.h"
#include "engine/translate/worker/halt_poll.h"
#include "engine/translate/worker/signals.h"
#include "x86/lapic/lapic.h"

namespace doppel::engine::translate {

class VirtualCpu : public CpuInterface, protected interpret::Environment {
public:
    using Stop = interpret::Interpreter::Stop;

    explicit VirtualCpu(const WorkerResources& resources);
    ~VirtualCpu() override;
    VirtualCpu(const VirtualCpu&) = delete;
    VirtualCpu& operator=(const VirtualCpu&) = delete;
    // To be called once, before anything else.
    virtual base::Result<void> initialise();

    void handle(Request request) override;

protected:
    [[nodiscard]] const DeviceLoad& device_load() const { return device_load_; }

    // ---- to be overridden ------------------------------------------------------------------
    // Runs guest code: as Interpreter::execute(), in its terms. To return soon after wake().
    virtual Stop advance(std::uint64_t instructions) { return interpreter_->execute(instructions); }
    // set_state() replaced the state.
    virtual void state_loaded() {}
    // From within advance(): what the guest did to the APIC lets an interrupt in, or no longer.
    virtual void want_interrupt_window(bool wanted) noexcept
    {
        interpreter_->request_interrupt_window(wanted);
    }
    // From within advance(): it is to return soon.
    virtual void want_return() noexcept { interpreter_->request_attention(); }
    // The interpreter's state is about to be read: brings it up to date.
    virtual void export_state() {}
    // Why advance() returned Stop::environment, when it was for good.
    [[nodiscard]] virtual std::string failure() const { return {}; }
    // The thread was interrupted: signals.h, WakeHandler.
    virtual void on_wake(ucontext_t& context, Wake why) noexcept
    {
        static_cast<void>(context), static_cast<void>(why);
    }
    // Inside again: takes the siblings' notes.
    virtual void take_notes() {}
    virtual void counters(base::CounterList& list) const;

    // ---- for subclasses --------------------------------------------------------------------
    [[nodiscard]] const WorkerResources& resources() const { return resources_; }
    [[nodiscard]] interpret::Interpreter& interpreter() { return *interpreter_; }
    // Makes advance() return. Async-signal-safe.
    void wake() noexcept { interpreter_->request_attention(); }
    // An interrupt that IF may hold back.
    [[nodiscard]] bool something_pending() const;

    // ---- Environment -----------------------------------------------------------------------
    bool apic_read(std::uint32_t reg, std::uint64_t& value) noexcept override;
    bool apic_write(std::uint32_t reg, std::uint64_t value) noexcept override;
    std::uint64_t cr8() noexcept override { return apic_.cr8(); }
    void set_cr8(std::uint64_t value) noexcept override;
    std::uint64_t steal_ns() noexcept override;
    void set_apic_base(std::uint64_t value) noexcept override;
    void set_tsc_deadline(std::uint64_t value) noexcept override;
    std::uint64_t tsc_deadline() noexcept override { return apic_.tsc_deadline(now()); }
    std::uint32_t apic_id() noexcept override { return apic_.id(); }
    bool rejected() noexcept override { return rejected_; }
    bool ring(bus::Space space, std::uint64_t address, unsigned size,
              std::uint64_t value) noexcept override;
    void tsc_offset_changed(std::uint64_t offset) noexcept override;
    void kick_cpu(std::uint32_t apic_id) noexcept override
    {
        resources_.siblings.end_halt(apic_id);
    }
    unsigned send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept override;
    void yield_to(std::uint32_t apic_id) noexcept override
    {
        resources_.siblings.yield_to(apic_id);
    }

private:
    Reply run();
    Reply run_inside();
    // INIT and SIPI, if one came. False: the vCPU waits for SIPI.
    [[nodiscard]] bool may_run();
    std::optional<Reply> execute_once();
    // Nothing: the exit was dealt with here.
    std::optional<Reply> answer_to(const Exit& exit);
    std::optional<Reply> halt();
    Reply access(Reply kind, std::uint64_t address, unsigned size, std::uint64_t value);
    void sleep_in_hlt();
    // What ends a sleep in HLT, but for time.
    [[nodiscard]] bool called() const noexcept;
    void look_for_attention(std::uint64_t now_ns, std::uint64_t deadline_ns);

    // memory_alone: interrupts that were posted before a reset are gone with it.
    enum class Taken { all, memory_alone };
    void take_events(Taken which);
    void take(const Event& event);
    // What siblings sent.
    void take_ipis();
    void forget_ipis();
    void enter();
    void inject_pending();
    void carry_out(const x86::Effects& effects) noexcept;
    void accept_own(const x86::ApicMessage& message) noexcept;
    // PV EOI: see InterpretVcpu.
    void offer_eoi() noexcept;
    void settle_eoi(interpret::EoiOffer offer) noexcept;
    void note(x86::Accepted accepted) noexcept;
    [[nodiscard]] x86::ApicTime now() const;
    void arm_timer() noexcept;
    // The local APIC was written to: its timer, and where messages find it.
    void apic_changed() noexcept;

    void load_state(const x86::CpuState& state);
    void save_state(x86::CpuState& state) const;
    void give(HandOver& to);
    base::Result<void> take_over(const HandOver& from);
    void write_counters();

    WorkerResources resources_;
    Mailbox& mailbox_;
    Seat& seat_;
    BoundDoorbells doorbells_;
    std::unique_ptr<interpret::Interpreter> interpreter_;
    std::unique_ptr<bus::Timer> timer_;
    x86::LocalApic apic_;
    std::uint64_t halted_ns_ = 0;
    HaltPoll halt_poll_;
    DeviceLoad device_load_;
    std::uint64_t steal_told_ = 0, steal_told_at_ns_ = 0;  // what steal_ns() said, and when
    bool nmi_pending_ = false;
    bool init_pending_ = false;
    x86::LocalApic::Address apic_address_;   // as published
    bool rejected_ = false;
    std::uint64_t tsc_offset_ = 0;
    std::uint64_t armed_ns_ = 0;             // what timer_ is set to, 0 nothing
    std::atomic<bool> timer_expired_{false};  // since armed_ns_ was set
    std::uint64_t budget_end_ = 0;           // of Interpreter::instructions(), 0 no limit
    struct {
        std::uint64_t io = 0, mmio = 0, doorbells = 0, halts = 0, kicks = 0, attention = 0, interrupts = 0,
                      nmis = 0, timers_armed = 0, eoi_writes = 0, silent_eois = 0, kicked_halts = 0;
    } counts_;
};

}  // namespace doppel::engine::translate
