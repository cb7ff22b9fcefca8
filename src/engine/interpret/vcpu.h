// A vCPU of the interpret engine: the interpreter plus a local APIC.
//
//   device threads ──deliver()──▶ local APIC ──request_attention──▶ run loop
//   VM clock timer ──on_timer()───────┘                                │ interruptible?
//   vCPU thread:  run() = { inject what is pending; execute(); answer exits } ◀┘
//
// Lock rule: apic_mutex_ guards the local APIC and may be taken with the device lock held;
// calls to the InterruptSource (which take the device lock) are made without apic_mutex_.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "base/fd.h"
#include "engine/engine.h"
#include "engine/interpret/interpreter.h"
#include "x86/lapic/lapic.h"

namespace doppel::engine::interpret {

// What a vCPU asks of its engine: where IPIs, EOIs and writes to doorbells go.
class ApicRouter {
public:
    virtual ~ApicRouter() = default;
    virtual bool ring(bus::Space space, std::uint64_t address, unsigned size,
                      std::uint64_t value) noexcept = 0;
    virtual void route(const x86::ApicMessage& message, unsigned sender) noexcept = 0;
    // What Environment says of these.
    virtual void kick_cpu(std::uint32_t apic_id) noexcept = 0;
    virtual unsigned send_ipis(std::uint64_t apic_ids,
                               const x86::ApicMessage& message) noexcept = 0;
    virtual void yield_to(std::uint32_t apic_id) noexcept = 0;
    [[nodiscard]] virtual bus::InterruptSource* source() noexcept = 0;
    // What vCPUs share, nullptr when there is one.
    [[nodiscard]] virtual SharedCode* shared_code() noexcept = 0;
    // The offset to use for a time-stamp counter that is to have this one from now on. vCPUs that
    // are set to nearly the same time mean the same time.
    [[nodiscard]] virtual std::uint64_t common_tsc_offset(std::uint64_t wanted) noexcept = 0;
};

class InterpretVcpu final : public Vcpu, private Environment {
public:
    static base::Result<std::unique_ptr<InterpretVcpu>> create(const EngineConfig& config,
                                                               ApicRouter& router, unsigned index);
    ~InterpretVcpu() override;

    // Vcpu
    Exit run() noexcept override;
    void complete_read(std::uint64_t value) noexcept override;
    void kick() noexcept override;
    void wait() noexcept override;
    x86::CpuState state() noexcept override;
    void set_state(const x86::CpuState& state) noexcept override;
    bool between_instructions() noexcept override { return interpreter_->between_instructions(); }
    base::Result<void> hand_over(HandOver& to) noexcept override;
    base::Result<void> take_over(const HandOver& from) noexcept override;
    void set_budget(std::uint64_t instructions) noexcept override { budget_ = instructions; }
    std::uint64_t instructions() const noexcept override { return interpreter_->instructions(); }
    void counters(base::CounterList& list) const override;

    // Interrupts, from any thread.
    [[nodiscard]] bool matches(const x86::ApicMessage& message, bool sender) noexcept;
    [[nodiscard]] std::uint8_t arbitration_priority() noexcept;
    void accept(const x86::ApicMessage& message) noexcept;
    // accept() would take a message of this mode.
    [[nodiscard]] bool takes(x86::DeliveryMode mode) noexcept;
    // Ends the HLT, or the next one.
    void end_halt() noexcept;
    void set_external_interrupt(bool level) noexcept;
    void inject_nmi() noexcept;
    void reset_apic() noexcept;

private:
    InterpretVcpu(const EngineConfig& config, ApicRouter& router, unsigned index);

    // Environment
    bool apic_read(std::uint32_t reg, std::uint64_t& value) noexcept override;
    bool apic_write(std::uint32_t reg, std::uint64_t value) noexcept override;
    std::uint64_t cr8() noexcept override;
    void set_cr8(std::uint64_t value) noexcept override;
    void set_apic_base(std::uint64_t value) noexcept override;
    void set_tsc_deadline(std::uint64_t value) noexcept override;
    std::uint64_t tsc_deadline() noexcept override;
    std::uint32_t apic_id() noexcept override { return apic_.id(); }
    bool rejected() noexcept override { return rejected_; }
    bool ring(bus::Space space, std::uint64_t address, unsigned size,
              std::uint64_t value) noexcept override
    {
        return router_.ring(space, address, size, value);
    }
    void tsc_offset_changed(std::uint64_t offset) noexcept override;
    std::uint64_t steal_ns() noexcept override;
    void kick_cpu(std::uint32_t apic_id) noexcept override { router_.kick_cpu(apic_id); }
    unsigned send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept override;
    void yield_to(std::uint32_t apic_id) noexcept override { router_.yield_to(apic_id); }

    [[nodiscard]] x86::ApicTime now() const;
    void note(x86::Accepted accepted) noexcept;  // apic_mutex_ held
    // INIT and SIPI, if one came. False: the vCPU waits for SIPI.
    [[nodiscard]] bool may_run() noexcept;
    void carry_out(const x86::Effects& effects) noexcept;
    // Something for the run loop to look at: wakes wait(), stops execute().
    void signal() noexcept;
    void wake() noexcept;
    void arm_timer() noexcept;  // apic_mutex_ held
    // Injects the most urgent interrupt that may be taken now. True: one was.
    bool inject_pending() noexcept;
    // An interrupt that IF may hold back.
    [[nodiscard]] bool something_pending() noexcept;
    // PV EOI: before guest code runs; and to be called before the local APIC is asked or told
    // anything that depends on what is in service.
    void offer_eoi() noexcept;
    void settle_eoi(EoiOffer offer) noexcept;
    [[nodiscard]] bool nmi_waiting() noexcept;
    [[nodiscard]] std::optional<Exit> execute_once() noexcept;

    ApicRouter& router_;
    bus::VmClock& clock_;
    const x86::CpuidPolicy& cpuid_;
    std::unique_ptr<Interpreter> interpreter_;
    std::unique_ptr<bus::Timer> timer_;

    std::mutex apic_mutex_;
    x86::LocalApic apic_;
    bool nmi_pending_ = false;            // apic_mutex_
    bool init_pending_ = false;           // apic_mutex_
    std::optional<std::uint8_t> startup_; // apic_mutex_: SIPI's vector
    std::uint64_t armed_ns_ = 0;          // apic_mutex_: what timer_ is set to, 0 nothing
    std::atomic<std::uint64_t> tsc_offset_{0};
    bool rejected_ = false;               // vCPU thread
    base::Fd run_delay_;                  // what steal_ns() reads, of the thread run_delay_tid_
    int run_delay_tid_ = 0;

    std::atomic<bool> kicked_{false};
    std::atomic<bool> event_{false};
    std::atomic<bool> unhalted_{false};  // EventState::unhalted
    std::mutex wait_mutex_;
    std::condition_variable wait_;

    std::uint64_t budget_ = 0;
    std::uint64_t budget_end_ = 0;
    struct {
        std::uint64_t io = 0, mmio = 0, halts = 0, kicks = 0, attention = 0, interrupts = 0, nmis = 0,
                      eoi_writes = 0, silent_eois = 0, kicked_halts = 0;
    } counts_;
};

}  // namespace doppel::engine::interpret
