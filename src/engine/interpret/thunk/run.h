// Running thunks: the checks before, the memory operand, and what the host reported after.
#pragma once

#include "engine/interpret/thunk/thunk.h"

namespace doppel::engine::interpret::thunk {

// False: the exception that comes before the instruction is in `fault`.
bool may_run(const Core& core, const Requirements& needs, x86::Vector& fault) noexcept;

// Runs the routine on `memory` (host address; may be nullptr without memory operand).
// Flow::next, or the guest's fault.
Flow execute(Core& core, const Op& op, const Thunk& thunk, void* memory) noexcept;

// The Op's thunk, or nullptr when its slot was reused: then run_again().
inline const Thunk* current(const Op& op)
{
    const auto* thunk = static_cast<const Thunk*>(op.data);
    return thunk->id == op.immediate ? thunk : nullptr;
}
// Decodes the instruction again from guest memory, lowers it and runs it.
Flow run_again(Core& core, const Op& op) noexcept;

// Handlers.
Flow run_register(Core& core, const Op& op) noexcept;
Flow run_memory(Core& core, const Op& op) noexcept;
Flow run_masked(Core& core, const Op& op) noexcept;
Flow run_gather(Core& core, const Op& op) noexcept;
Flow run_hint(Core& core, const Op& op) noexcept;

// Op::extra of the instructions written out.
inline constexpr unsigned extra_wide = 1, extra_vex = 2;

// Instructions written out, by Zydis mnemonic; nullptr: none (misc.cpp, fxsave.cpp, xsave.cpp).
Handler handler_misc(ZydisMnemonic mnemonic);
Handler handler_fxsave(ZydisMnemonic mnemonic);
Handler handler_xsave(ZydisMnemonic mnemonic);

}  // namespace doppel::engine::interpret::thunk
