// SYSCALL and SYSRET, straight from one context of translated code to the other.
//
// Only the usual case: nothing waits, the instruction raises no fault, translated code may run
// behind it, and its block is known. All else is the interpreter's, as any other instruction
// that ends a block; both ways leave the same state.
#include <algorithm>

#include "engine/translate/dispatch/supervisor.h"
#include "engine/translate/layout.h"
#include "engine/translate/worker/executor.h"
#include "x86/system_call.h"

namespace doppel::engine::translate {

namespace {

using x86::rflags::AC, x86::rflags::IF, x86::rflags::IOPL, x86::rflags::NT, x86::rflags::TF;

}  // namespace

// Registers are in the context that is left. False: nothing was done.
bool Executor::cross(ExitKind kind, const Block& block)
{
    if (lock_step_ != nullptr && lock_step_->armed()) return false;
    if (flush_.any || window_wanted_ || must_leave()) return false;
    if ((registers_.state->efer & x86::efer::SCE) == 0) return false;
    switch (kind) {
    case ExitKind::syscall: return mode_.user && !mode_.privileged && enter_kernel(block);
    case ExitKind::sysret: return !mode_.user && leave_kernel();
    default: return false;
    }
}

bool Executor::enter_kernel(const Block& block)
{
    x86::CpuState& state = *registers_.state;
    const Mode mode = supervisor_mode();
    if (!upper_half(state.lstar) || !gs_fits()) return false;
    const Block* next = known_block(state.lstar, mode);
    if (next == nullptr) return false;

    const ExecContext& from = context();
    ExecContext& to = supervisor();
    std::copy_n(from.gpr, 16, to.gpr);
    to.gpr[x86::RCX] = block.rip + block.guest_bytes;
    to.gpr[x86::R11] = join_flags(state.rflags, from.flags);
    to.gpr[x86::RSP] += fold;
    state.rflags = x86::syscall_flags(state, to.gpr[x86::R11]);
    x86::load_syscall_segments(state);
    interpreter_.mode_changed();
    mode_ = mode;
    load_system_context(state.rflags);
    enter_at(state.lstar, *next);
    return true;
}

bool Executor::leave_kernel()
{
    x86::CpuState& state = *registers_.state;
    const ExecContext& from = supervisor();
    const std::uint64_t rip = from.gpr[x86::RCX];
    const std::uint64_t flags = x86::sysret_flags(from.gpr[x86::R11]);
    if ((flags & (TF | NT | IOPL | AC)) != 0 || (state.cr4 & x86::cr4::TSD) != 0) return false;
    if (user_fault_.pending || space_ == nullptr || !space_->is(state.cr3, true) || space_->stale) {
        return false;
    }
    // Also where the interpreter goes on after all.
    if (take_bases()) interpreter_.mode_changed();
    Mode mode;
    mode.user = true;
    mode.masked = (flags & IF) == 0;
    mode.gs_free = state.segments[x86::GS].base == 0;
    note_vector_state();
    mode.vector = vector_ok_;
    if (space_->targets_mode != mode) return false;
    const Block* next = known_block(rip, mode);
    if (next == nullptr) return false;

    x86::load_sysret_segments(state, true);
    state.rflags = flags;
    interpreter_.mode_changed();
    mode_ = mode;
    ExecContext& to = context();
    std::copy_n(from.gpr, 16, to.gpr);
    to.gpr[x86::RSP] -= fold;
    load_user_context(flags);
    enter_at(rip, *next);
    return true;
}

// The registers are in the context of mode_.
void Executor::enter_at(std::uint64_t rip, const Block& block)
{
    *registers_.rip = rip;
    host_rip_ = block.host;
    ++counts_.crossings;
}

}  // namespace doppel::engine::translate
