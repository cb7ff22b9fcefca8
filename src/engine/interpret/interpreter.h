// The interpreter as a component: used by its own engine, and by other engines for
// instructions that they cannot run. One per vCPU; not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "engine/engine.h"

namespace doppel::engine::interpret {

// What the interpreter needs from whoever owns the vCPU's interrupts and MSRs outside
// CpuState. The interpret engine gives it a local APIC; the kvm engine refuses, so that
// such instructions go back to KVM.
class Environment {
public:
    virtual ~Environment() = default;
    // Local APIC page and x2APIC MSRs. False: not served here, stop before the instruction.
    virtual bool apic_read(std::uint32_t reg, std::uint64_t& value) noexcept = 0;
    virtual bool apic_write(std::uint32_t reg, std::uint64_t value) noexcept = 0;
    virtual std::uint64_t cr8() noexcept = 0;
    virtual void set_cr8(std::uint64_t value) noexcept = 0;
    virtual void set_apic_base(std::uint64_t value) noexcept = 0;
    virtual void set_tsc_deadline(std::uint64_t value) noexcept = 0;
    virtual std::uint64_t tsc_deadline() noexcept = 0;
    virtual std::uint32_t apic_id() noexcept = 0;
    // The last apic_read(), apic_write() or set_apic_base() was architecturally illegal: #GP
    // rather than a stop. Asked directly after it. `reg` is an xAPIC page offset >> 4 (0-0xff)
    // or an x2APIC MSR (0x800-0x8ff).
    virtual bool rejected() noexcept { return false; }
    // MSRs that the interpreter does not know: somebody else may, so stop before the
    // instruction instead of #GP.
    virtual bool has_other_msrs() noexcept { return false; }
    // The guest's time-stamp counter is VmClock::tsc() + offset from now on.
    virtual void tsc_offset_changed(std::uint64_t offset) noexcept { static_cast<void>(offset); }
};

class Interpreter {
public:
    static base::Result<std::unique_ptr<Interpreter>> create(memory::GuestMemory& memory,
                                                             bus::VmClock& clock,
                                                             const x86::CpuidPolicy& cpuid,
                                                             Environment& environment);
    virtual ~Interpreter() = default;

    virtual void set_state(const x86::CpuState& state) = 0;
    [[nodiscard]] virtual x86::CpuState state() const = 0;
    // RAM may have been written without GuestMemory's knowledge: drops all decoded code.
    virtual void forget_code() = 0;

    // Why execute() stopped.
    enum class Stop {
        budget,       // ran as many instructions as asked
        exit,         // exit() needs the caller; call complete_read() if it is a read
        attention,    // request_attention() was called
        environment,  // the next instruction needs what Environment refused
    };
    // Runs up to `instructions` (0: no limit). Delivers faults itself; takes no external
    // interrupts: the caller injects them with deliver_interrupt() when interruptible().
    virtual Stop execute(std::uint64_t instructions) = 0;
    [[nodiscard]] virtual const Exit& exit() const = 0;
    virtual void complete_read(std::uint64_t value) = 0;
    virtual void request_attention() = 0;  // any thread
    // While wanted, execute() stops with `attention` as soon as interruptible() holds.
    virtual void request_interrupt_window(bool wanted) = 0;

    // IF set, no shadow, not in the middle of a device access.
    [[nodiscard]] virtual bool interruptible() const = 0;
    // As above without IF.
    [[nodiscard]] virtual bool nmi_allowed() const = 0;
    [[nodiscard]] virtual bool interrupts_enabled() const = 0;
    virtual void deliver_interrupt(std::uint8_t vector) = 0;
    virtual void deliver_nmi() = 0;
    // Leave HLT (activity becomes running).
    virtual void wake() = 0;

    [[nodiscard]] virtual std::uint64_t instructions() const = 0;
    virtual void counters(base::CounterList& list) const = 0;
};

}  // namespace doppel::engine::interpret
