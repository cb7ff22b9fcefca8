// Instructions that KVM cannot emulate, completed by the interpreter.
//
//   KVM ──INTERNAL_ERROR, emulation──▶ begin(snapshot) ──▶ run() ... ──▶ back: leave() ──▶ KVM
//                                                           │   ▲
//                                                           ▼   │ complete_read()
//                                                       Outcome::exit
//
// A stay begins with as many instructions as cost about what the way there and back costs.
// Where stops come in runs it doubles, where they are rare it shrinks again. Interrupts live in
// KVM's local APIC and cannot arrive meanwhile, so a stay also ends when its time is over, when
// the guest halts, and when an instruction needs what is in the kernel (Environment refuses).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "engine/engine.h"
#include "engine/interpret/interpreter.h"
#include "engine/kvm/vcpu_state.h"

namespace doppel::engine::kvm {

// How long a stay is, from when stops come.
class StayLength {
public:
    using Time = std::chrono::steady_clock::time_point;
    // Decoding and running this many cold instructions takes about as long as reading and
    // writing the state.
    static constexpr std::uint64_t minimum = 64;
    static constexpr std::uint64_t maximum = std::uint64_t{1} << 20;
    // An interrupt waits at most this long.
    static constexpr std::chrono::microseconds slice{1000};
    // Stops closer together than this come in runs: even in hardware, stays then take at most a
    // twentieth of the time, and where KVM emulates the interpreter is the faster of the two.
    static constexpr std::chrono::microseconds run_gap{20000};

    // A stop at `now`: instructions to interpret.
    std::uint64_t begin(Time now);
    void end(Time now) { last_end_ = now; }

private:
    std::uint64_t length_ = minimum;
    Time last_end_{};
    bool first_ = true;
};

class Fallback final : private interpret::Environment {
public:
    enum class Outcome {
        back,   // leave() and go on in KVM
        exit,   // exit() is for the VM loop; run() again afterwards
        kick,   // interrupted by attention(); run() again
        stuck,  // not even the first instruction could be run here
    };

    static base::Result<std::unique_ptr<Fallback>> create(memory::GuestMemory& memory,
                                                          bus::VmClock& clock,
                                                          const x86::CpuidPolicy& cpuid,
                                                          VcpuState& kvm, unsigned index);

    // Takes the vCPU over from KVM, pending injections included.
    void begin(const VcpuSnapshot& snapshot);
    [[nodiscard]] bool active() const { return active_; }
    Outcome run();
    [[nodiscard]] const Exit& exit() const { return interpreter_->exit(); }
    void complete_read(std::uint64_t value) { interpreter_->complete_read(value); }
    // Gives the vCPU back to KVM. False: see VcpuState::problem().
    [[nodiscard]] bool leave();
    // Forgets the stay: the state was replaced.
    void abandon() { active_ = false; }
    [[nodiscard]] x86::CpuState state() const { return interpreter_->state(); }
    // Any thread: run() returns soon.
    void attention() { interpreter_->request_attention(); }

    void counters(base::CounterList& list) const;

private:
    Fallback(VcpuState& kvm, unsigned index) : kvm_(kvm), index_(index) {}

    // Between two looks at the clock.
    static constexpr std::uint64_t chunk = 4096;
    [[nodiscard]] bool moved() const;

    // interpret::Environment
    bool apic_read(std::uint32_t, std::uint64_t&) noexcept override { return false; }
    bool apic_write(std::uint32_t, std::uint64_t) noexcept override { return false; }
    bool has_other_msrs() noexcept override { return true; }
    bool hypercalls_elsewhere() noexcept override { return true; }
    bool rejected() noexcept override { return rejected_; }
    std::uint64_t cr8() noexcept override { return cr8_; }
    void set_cr8(std::uint64_t value) noexcept override { cr8_ = value; }
    void set_apic_base(std::uint64_t value) noexcept override;
    void set_tsc_deadline(std::uint64_t value) noexcept override;
    std::uint64_t tsc_deadline() noexcept override;
    std::uint32_t apic_id() noexcept override { return index_; }

    VcpuState& kvm_;
    unsigned index_;
    std::unique_ptr<interpret::Interpreter> interpreter_;
    VcpuSnapshot before_;
    StayLength length_;
    std::uint64_t first_instruction_ = 0;  // interpreter's count when the stay began
    std::uint64_t left_ = 0;
    StayLength::Time deadline_{};
    std::uint64_t cr8_ = 0;
    bool active_ = false;
    bool in_device_ = false;  // an exit of the current instruction is being answered
    bool rejected_ = false;
    std::uint64_t stays_ = 0, refusals_ = 0, nanoseconds_ = 0;
    StayLength::Time begun_{};
};

}  // namespace doppel::engine::kvm
