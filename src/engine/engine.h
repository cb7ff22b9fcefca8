// The seam between a machine and whatever executes its instructions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/counters.h"
#include "base/result.h"
#include "bus/clock.h"
#include "bus/doorbell.h"
#include "bus/interrupts.h"
#include "engine/exit.h"
#include "memory/guest_memory.h"
#include "x86/cpu_state.h"
#include "x86/cpuid.h"
#include "x86/lapic/lapic.h"

namespace doppel::engine {

enum class EngineKind { kvm, translate, interpret };
[[nodiscard]] std::string_view name(EngineKind kind);

struct Capabilities {
    bool in_kernel_interrupts = false;    // interrupt_sink() is there: build no PIC or I/O APIC
    bool counts_instructions = false;     // instructions() means something
    bool instruction_budget = false;      // Vcpu::set_budget() works
    bool hand_over = false;               // Vcpu::hand_over() and take_over() work
    unsigned max_vcpus = 1;
};

// What became of the time in Vcpu::run().
struct RunTime {
    std::uint64_t halted_ns = 0;  // asleep in HLT
    // Of the rest, in proportion; may be estimates. Empty, or all zero: the guest ran.
    std::vector<std::pair<std::string_view, std::uint64_t>> shares;
};

// All that a vCPU is, for another engine to go on with it: what came for it is in here, too.
struct HandOver {
    x86::CpuState cpu;
    x86::LocalApic::State apic;
    std::uint64_t tsc_offset = 0;  // the guest's TSC is VmClock::tsc() plus this
};

// One virtual CPU. run(), state() and set_state() belong to its own thread (state calls
// only while run() is not under way); kick() may come from any thread. noexcept.
class Vcpu {
public:
    virtual ~Vcpu() = default;

    [[nodiscard]] virtual Exit run() noexcept = 0;
    // Answers the last IoReadExit or MmioReadExit.
    virtual void complete_read(std::uint64_t value) noexcept = 0;
    // Makes run() return KickExit soon (within 1 ms), or wait() return; sticky until seen.
    virtual void kick() noexcept = 0;
    // After HaltExit: sleeps until an interrupt is deliverable or kick().
    virtual void wait() noexcept = 0;

    [[nodiscard]] virtual x86::CpuState state() noexcept = 0;
    // Checks nothing a CPU would check at load; the caller (boot code, a snapshot's
    // checked loader) vouches for it. Drops cached translations.
    virtual void set_state(const x86::CpuState& state) noexcept = 0;

    // ---- another engine takes over; as state(), of engines with Capabilities::hand_over --------
    // False: the next run() has to finish an instruction, such as one that reads from a device.
    // Only then hand_over() gives all there is.
    [[nodiscard]] virtual bool between_instructions() noexcept { return true; }
    // No interrupt may be delivered to this vCPU between hand_over() and the other's take_over().
    virtual base::Result<void> hand_over(HandOver& to) noexcept;
    // Checked first: it may come from a process that is not trusted. GuestMemory has to tell of
    // what the other engine wrote to memory.
    virtual base::Result<void> take_over(const HandOver& from) noexcept;

    // run() returns KickExit after this many instructions; 0 means no limit.
    virtual void set_budget(std::uint64_t instructions) noexcept = 0;
    [[nodiscard]] virtual std::uint64_t instructions() const noexcept = 0;
    virtual void counters(base::CounterList& list) const = 0;
    [[nodiscard]] virtual RunTime run_time() const { return {}; }
};

struct EngineConfig {
    memory::GuestMemory& memory;
    bus::VmClock& clock;
    const x86::CpuidPolicy& cpuid;
    unsigned vcpus = 1;
    // translate checks itself against the interpreter: a block's first run, and one in so many of
    // those after it; 1: all of them, 0: none. A difference is an ErrorExit.
    std::uint64_t lock_step = 0;
};

class Engine {
public:
    virtual ~Engine() = default;
    [[nodiscard]] virtual EngineKind kind() const = 0;
    [[nodiscard]] virtual Capabilities capabilities() const = 0;

    // Called once memory slots are final and before any vCPU runs.
    virtual base::Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index) = 0;

    // In-kernel interrupt controllers, or nullptr: then the machine builds devices/irq,
    // feeds local_interrupts(), and connects itself as the source.
    virtual bus::InterruptSink* interrupt_sink() { return nullptr; }
    virtual bus::LocalInterrupts* local_interrupts() { return nullptr; }
    virtual void connect(bus::InterruptSource& source) { static_cast<void>(source); }

    // For devices: guest writes that need no exit. Before vCPUs and while they run.
    virtual bus::Doorbells& doorbells() = 0;

    // Back to power-on, interrupt controllers and local APICs included. vCPUs stopped.
    virtual void reset() noexcept = 0;
    virtual void counters(base::CounterList& list) const { static_cast<void>(list); }
};

base::Result<std::unique_ptr<Engine>> create_kvm_engine(const EngineConfig& config);
base::Result<std::unique_ptr<Engine>> create_interpret_engine(const EngineConfig& config);
base::Result<std::unique_ptr<Engine>> create_translate_engine(const EngineConfig& config);
// Why this build or host cannot run the translate engine; empty: it can, for all that can be
// told without trying.
std::string translate_problem();

}  // namespace doppel::engine
