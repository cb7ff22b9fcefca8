// Exceptions, interrupts and everything privileged, for one vCPU. SDM volume 3 chapters
// 2, 5, 6, 7.
#pragma once

#include <cstdint>

#include "engine/interpret/core.h"
#include "engine/interpret/interpreter.h"

namespace doppel::engine::interpret {

enum class InterruptKind : std::uint8_t {
    external,   // EXT bit set in error codes of nested faults
    nmi,
    fault,      // processor exception
    software,   // INT n: DPL of the gate is checked
    software_exception,  // INT3, INTO: DPL checked, return RIP after the instruction
    icebp,      // INT1: not DPL checked
};

// One event on its way through the IDT.
struct Event {
    std::uint8_t vector = 0;
    InterruptKind kind = InterruptKind::external;
    bool has_error_code = false;
    std::uint32_t error_code = 0;
    std::uint64_t return_rip = 0;
    bool resume_flag = false;  // pushed RF
};

class System {
public:
    System(Core& core, Environment& environment) : core_(core), environment_(environment) {}

    // Delivers a fault raised at state.rip (core.state.rip is the faulting instruction; the
    // run loop has set it). Nested faults become double faults, then triple: returns false and
    // core.exit is ShutdownExit. Sets CR2, RF, DR6/DR7.GD as the architecture says.
    [[nodiscard]] bool deliver_fault(const Fault& fault);
    // Delivers an interrupt at state.rip. Same return value.
    [[nodiscard]] bool deliver_interrupt(std::uint8_t vector, InterruptKind kind);
    // One attempt, for INT n and its kin: Flow::fault leaves the nested fault in core.fault
    // and nothing changed; Flow::leave when the handler's first instruction is next.
    [[nodiscard]] Flow deliver_once(const Event& event);

    // RFLAGS.TF or enabled DR7 breakpoints: the run loop single-steps, and calls these around
    // each instruction.
    [[nodiscard]] bool debugging() const;
    // Instruction breakpoint at state.rip: true with core.fault set when #DB is due.
    [[nodiscard]] bool instruction_breakpoint();
    // After a completed instruction: true with core.fault set (#DB trap: TF, data breakpoints
    // recorded by note_data_access, task switch T bit).
    [[nodiscard]] bool debug_trap(bool tf_before);
    void note_data_access(std::uint64_t linear, unsigned size, bool write);
    void note_io_access(std::uint16_t port, unsigned size);
    // MOV or POP to SS: debug exceptions wait until after the instruction at next_rip.
    void note_stack_segment_load(std::uint64_t next_rip)
    {
        if (debugging()) no_debug_before_ = next_rip;
    }
    void note_task_trap() { pending_dr6_ |= x86::dr6::BT; }

    // A task switch has committed and what stopped it (core.fault) belongs to the new task:
    // delivers it there. Flow::next, or Flow::exit for a triple fault.
    [[nodiscard]] Flow fault_in_new_task(Flow stopped);

    // The guest's time-stamp counter is the VM clock's plus an offset.
    [[nodiscard]] std::uint64_t tsc() const { return core_.clock.tsc() + tsc_offset_; }
    void set_tsc(std::uint64_t value);
    void set_tsc_offset(std::uint64_t offset);
    // Of whole states: set_state() takes state.tsc as the value now, state() gives it back.
    void state_imported();

    // ---- paravirtual aids (paravirt.cpp, hypercall.cpp) -----------------------------------------
    // CPUID says so: one bit of x86::paravirt::feature.
    [[nodiscard]] bool offers(std::uint32_t feature) const;
    // Not offered, or somebody else's: nullptr. Else where the state keeps the MSR.
    [[nodiscard]] std::uint64_t* paravirt_msr(std::uint32_t index);
    // False: #GP.
    [[nodiscard]] bool write_paravirt_msr(std::uint32_t index, std::uint64_t value);
    // Brings what the guest sees up to date, where it asked for it. Memory that is not there is
    // not written to.
    void refresh_system_time();
    void refresh_steal_time();
    // As those of Interpreter.
    void offer_eoi();
    [[nodiscard]] bool eoi_taken(EoiOffer offer);
    void stops_running();
    void runs_again();

    // Environment refused: stop before the current instruction.
    bool environment_refused = false;
    // Hypercalls that were served, for --stats.
    struct {
        std::uint64_t kicks = 0, ipis = 0, yields = 0;
    } hypercalls;

    Core& core() { return core_; }
    Environment& environment() { return environment_; }

private:
    static constexpr std::uint64_t nowhere = ~std::uint64_t{0};

    [[nodiscard]] bool deliver(Event event);
    void note_fault(const Fault& fault);
    [[nodiscard]] bool shutdown();
    void write_wall_clock();
    [[nodiscard]] std::byte* shared_byte(std::uint64_t at) const;
    // Where the guest asked for it and has memory; else nullptr.
    [[nodiscard]] std::byte* preempted_byte(base::Gpa& at) const;

    Core& core_;
    Environment& environment_;
    std::uint64_t tsc_offset_ = 0;
    std::uint64_t pending_dr6_ = 0;             // data and I/O breakpoints hit, BT
    std::uint64_t no_debug_before_ = nowhere;   // RIP after MOV SS
    unsigned task_depth_ = 0;
    std::uint64_t steal_seen_ = 0;              // Environment::steal_ns() at the last refresh
    std::uint64_t steal_refreshed_ns_ = 0;
    std::uint64_t eoi_offered_at_ = nowhere;    // address of the word, while an offer stands
    bool stopped_ = true;                       // the guest may have been told that it does not run
};

}  // namespace doppel::engine::interpret
