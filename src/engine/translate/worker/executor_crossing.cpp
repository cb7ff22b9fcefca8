// SYSCALL and SYSRET, straight from one context of translated code to the other.
//
// Only the usual case: nothing waits, the instruction raises no fault, and translated code may run
// behind it. All else is the interpreter's, as any other instruction
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

// Registers are in the context that is left. Nothing: nothing was done.
std::optional<Executor::Next> Executor::cross(ExitKind kind, const Block& block)
{
    if (lock_step_ != nullptr && lock_step_->armed()) return std::nullopt;
    if (window_wanted_ || must_leave()) return std::nullopt;
    if (mode_.code32 || (registers_.state->efer & x86::efer::SCE) == 0) return std::nullopt;
    switch (kind) {
    case ExitKind::syscall:
        if (!mode_.user || mode_.privileged) return std::nullopt;
        return enter_kernel(block.rip + block.guest_bytes);
    case ExitKind::sysret:
        if (mode_.user) return std::nullopt;
        return leave_kernel();
    default:
        return std::nullopt;
    }
}

std::optional<Executor::Next> Executor::enter_kernel(std::uint64_t return_rip)
{
    x86::CpuState& state = *registers_.state;
    if (flush_.any || !upper_half(state.lstar) || !gs_fits()) return std::nullopt;
    if (targets_mode_ != supervisor_mode()) return std::nullopt;

    const ExecContext& from = context();
    ExecContext& to = supervisor();
    std::copy_n(from.gpr, 16, to.gpr);
    to.gpr[x86::RCX] = return_rip;
    to.gpr[x86::R11] = join_flags(state.rflags, from.flags);
    to.gpr[x86::RSP] += fold;
    state.rflags = x86::syscall_flags(state, to.gpr[x86::R11]);
    x86::load_syscall_segments(state);
    mode_ = supervisor_mode();
    load_system_context(state.rflags);
    return crossed_to(state.lstar);
}

std::optional<Executor::Next> Executor::leave_kernel()
{
    x86::CpuState& state = *registers_.state;
    const ExecContext& from = supervisor();
    const std::uint64_t rip = from.gpr[x86::RCX];
    const std::uint64_t flags = x86::sysret_flags(from.gpr[x86::R11]);
    if ((rip >> 47) != 0 || user_fault_.pending) return std::nullopt;
    if ((flags & (TF | NT | IOPL | AC)) != 0 || (state.cr4 & x86::cr4::TSD) != 0) {
        return std::nullopt;
    }
    if (lock_step_ == nullptr && brief_stays_.expected(rip)) return stay_briefly(rip);
    // What is done from here to prepare_space() is right, too, where the interpreter goes on after all.
    if (take_bases()) interpreter_.mode_changed();
    if (flush_.any) at(Place::windows, [this] { return apply_flushes(), 0; });
    Mode mode;
    mode.user = true;
    mode.masked = (flags & IF) == 0;
    mode.gs_free = state.segments[x86::GS].base == 0;
    note_vector_state();
    allow_vectors(mode);
    if (!prepare_space(mode)) return std::nullopt;

    x86::load_sysret_segments(state, true);
    state.rflags = flags;
    mode_ = mode;
    ExecContext& to = context();
    std::copy_n(from.gpr, 16, to.gpr);
    to.gpr[x86::RSP] -= fold;
    load_user_context(flags);
    return crossed_to(rip);
}

// Back to the program, which is believed to make its next system call soon: by the interpreter.
Executor::Next Executor::stay_briefly(std::uint64_t rip)
{
    x86::CpuState& state = *registers_.state;
    const std::uint64_t flags = x86::sysret_flags(supervisor().gpr[x86::R11]);
    unload_context(rip);
    x86::load_sysret_segments(state, true);
    interpreter_.set_rflags(flags);
    interpreter_.mode_changed();
    // Kernels mask IF at the system call. One that does not is interpreted a little further.
    stop_ = at(Place::interpreter, [this] {
        return interpreter_.execute_briefly(IF, BriefStays::most_instructions);
    });
    const bool brief = state.cpl() != 3;
    ++(brief ? counts_.brief_stays : counts_.stays_not_brief);
    brief_stays_.tried(rip, brief);
    return stop_ == Stop::budget ? Next::dispatch : Next::stop;
}

// The registers are in the context of mode_.
Executor::Next Executor::crossed_to(std::uint64_t rip)
{
    interpreter_.mode_changed();
    ++counts_.crossings;
    const Block* block = known_block(rip, mode_);
    if (block == nullptr) block = block_for(rip, mode_, false);
    if (block == nullptr || block->guest_count == 0) {
        unload_context(rip);
        return Next::dispatch;
    }
    *registers_.rip = rip;
    host_rip_ = block->host;
    return Next::resume;
}

}  // namespace doppel::engine::translate
