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

class System {
public:
    System(Core& core, Environment& environment) : core_(core), environment_(environment) {}

    // Delivers a fault raised at state.rip (core.state.rip is the faulting instruction; the
    // run loop has set it). Nested faults become double faults, then triple: returns false and
    // core.exit is ShutdownExit. Sets CR2, RF, DR6/DR7.GD as the architecture says.
    [[nodiscard]] bool deliver_fault(const Fault& fault);
    // Delivers an interrupt at state.rip. Same return value.
    [[nodiscard]] bool deliver_interrupt(std::uint8_t vector, InterruptKind kind);

    // RFLAGS.TF or enabled DR7 breakpoints: the run loop single-steps, and calls these around
    // each instruction.
    [[nodiscard]] bool debugging() const;
    // Instruction breakpoint at state.rip: true with core.fault set when #DB is due.
    [[nodiscard]] bool instruction_breakpoint();
    // After a completed instruction: true with core.fault set (#DB trap: TF, data breakpoints
    // recorded by note_data_access, task switch T bit).
    [[nodiscard]] bool debug_trap(bool tf_before);
    void note_data_access(std::uint64_t linear, unsigned size, bool write);

    // Environment refused: stop before the current instruction.
    bool environment_refused = false;

    Core& core() { return core_; }
    Environment& environment() { return environment_; }

private:
    Core& core_;
    Environment& environment_;
};

}  // namespace doppel::engine::interpret
