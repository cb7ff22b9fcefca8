// SYSCALL, SYSRET and IRETQ, straight from one context of translated code to the other, or from
// supervisor code to supervisor code.
//
// Only the usual case: nothing waits, the instruction raises no fault, and translated code may run
// behind it. All else is the interpreter's, as any other instruction
// that ends a block; both ways leave the same state.
#include <algorithm>
#include <span>

#include "engine/translate/dispatch/supervisor.h"
#include "engine/translate/layout.h"
#include "engine/translate/worker/executor.h"
#include "x86/canonical.h"
#include "x86/interrupt_return.h"
#include "x86/system_call.h"

namespace doppel::engine::translate {

namespace {

using x86::rflags::AC, x86::rflags::IF, x86::rflags::IOPL, x86::rflags::NT, x86::rflags::RF,
    x86::rflags::TF, x86::rflags::VIF, x86::rflags::VIP;

// Where 64-bit user code can be.
constexpr bool lower_half(std::uint64_t rip) { return (rip >> 47) == 0; }

}  // namespace

// Registers are in the context that is left. Nothing: nothing was done.
std::optional<Executor::Next> Executor::cross(ExitKind kind, const Block& block)
{
    if (lock_step_ != nullptr && lock_step_->armed()) return std::nullopt;
    if (window_wanted_ || must_leave()) return std::nullopt;
    if (mode_.code32) return std::nullopt;
    const bool system_calls = (registers_.state->efer & x86::efer::SCE) != 0;
    switch (kind) {
    case ExitKind::syscall:
        if (!mode_.user || mode_.privileged || !system_calls) return std::nullopt;
        return enter_kernel(block.rip + block.guest_bytes);
    case ExitKind::sysret:
        if (mode_.user || !system_calls) return std::nullopt;
        return leave_kernel();
    case ExitKind::iret:
        if (mode_.user) return std::nullopt;
        return end_interrupt();
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
    if (!lower_half(rip) || user_fault_.pending) return std::nullopt;
    if ((flags & (TF | NT | IOPL | AC | VIF | VIP)) != 0) return std::nullopt;
    if ((state.cr4 & x86::cr4::TSD) != 0) return std::nullopt;
    if (lock_step_ == nullptr && brief_calls_.expected(rip)) {
        unload_context(rip);
        x86::load_sysret_segments(state, true);
        return stay_briefly(brief_calls_, flags);
    }
    const auto mode = prepare_program(flags);
    if (!mode) return std::nullopt;
    x86::load_sysret_segments(state, true);
    load_program(*mode, from.gpr[x86::RSP] - fold, flags);
    return crossed_to(rip);
}

// The registers stay in the supervisor's context; what is done here is right, too, where the
// interpreter goes on after all, for which it returns nothing.
std::optional<Mode> Executor::prepare_program(std::uint64_t flags)
{
    if (take_bases()) interpreter_.mode_changed();
    if (flush_.any) at(Place::windows, [this] { return apply_flushes(), 0; });
    Mode mode;
    mode.user = true;
    mode.masked = (flags & IF) == 0;
    mode.gs_free = registers_.state->segments[x86::GS].base == 0;
    note_vector_state();
    allow_vectors(mode);
    if (!prepare_space(mode)) return std::nullopt;
    return mode;
}

// Segments are the program's already.
void Executor::load_program(const Mode& mode, std::uint64_t rsp, std::uint64_t flags)
{
    registers_.state->rflags = flags;
    mode_ = mode;
    ExecContext& to = context();
    std::copy_n(supervisor().gpr, 16, to.gpr);
    to.gpr[x86::RSP] = rsp;
    load_user_context(flags);
}

// IRETQ.
std::optional<Executor::Next> Executor::end_interrupt()
{
    x86::CpuState& state = *registers_.state;
    const ExecContext& from = supervisor();
    if (state.events.nmi_blocked) return std::nullopt;
    x86::InterruptFrame frame;
    if (!interpreter_.read_system(from.gpr[x86::RSP] - fold,
                                  std::as_writable_bytes(std::span{&frame, 1}))) {
        return std::nullopt;
    }
    auto flags = x86::usual_return_flags(join_flags(from.system_flags, from.flags), frame.rflags);
    if (!flags || !x86::canonical(frame.rip)) return std::nullopt;
    // No breakpoints are set, or translated code would not run: see eligible().
    *flags &= ~RF;
    const auto cs_selector = static_cast<std::uint16_t>(frame.cs);
    const auto ss_selector = static_cast<std::uint16_t>(frame.ss);
    const unsigned cpl = x86::selector_rpl(cs_selector);
    const auto cs = x86::usual_return_code(cs_selector, descriptor(cs_selector));
    if (!cs) return std::nullopt;
    const auto ss = x86::usual_return_stack(ss_selector, descriptor(ss_selector), cpl);
    if (!ss) return std::nullopt;
    if (cpl == 0) return return_inside_kernel(frame, *cs, *ss, *flags);
    if (cpl == 3) return return_to_program(frame, *cs, *ss, *flags);
    return std::nullopt;
}

// Of the GDT; 0, which is no segment's, where there is none or it is not easily read.
std::uint64_t Executor::descriptor(std::uint16_t selector)
{
    const x86::TableRegister& gdt = registers_.state->gdtr;
    const std::uint32_t offset = x86::selector_offset(selector);
    std::uint64_t raw = 0;
    if (x86::selector_null(selector) || x86::selector_in_ldt(selector)) return 0;
    if (offset + 7 > gdt.limit) return 0;
    const bool read =
        interpreter_.read_system(gdt.base + offset, std::as_writable_bytes(std::span{&raw, 1}));
    return read ? raw : 0;
}

std::optional<Executor::Next> Executor::return_inside_kernel(const x86::InterruptFrame& frame,
                                                             const x86::Segment& cs,
                                                             const x86::Segment& ss,
                                                             std::uint64_t flags)
{
    if (flush_.any || !upper_half(frame.rip) || targets_mode_ != supervisor_mode()) {
        return std::nullopt;
    }
    x86::CpuState& state = *registers_.state;
    take_bases();
    state.segments[x86::CS] = cs;
    state.segments[x86::SS] = ss;
    state.rflags = flags;
    mode_ = supervisor_mode();
    supervisor().gpr[x86::RSP] = frame.rsp + fold;
    load_system_context(flags);
    return crossed_to(frame.rip);
}

std::optional<Executor::Next> Executor::return_to_program(const x86::InterruptFrame& frame,
                                                          const x86::Segment& cs,
                                                          const x86::Segment& ss,
                                                          std::uint64_t flags)
{
    x86::CpuState& state = *registers_.state;
    constexpr unsigned cpl = 3;
    const auto survives = [&](x86::SegmentRegister which) {
        return x86::survives_return(state.segments[which], cpl);
    };
    if (!lower_half(frame.rip) || (state.cr4 & x86::cr4::TSD) != 0) return std::nullopt;
    if (!survives(x86::FS) || !survives(x86::GS)) return std::nullopt;
    const auto load_segments = [&] {
        for (const auto which : {x86::DS, x86::ES}) {
            if (!survives(which)) state.segments[which] = x86::null_segment(0);
        }
        state.segments[x86::CS] = cs;
        state.segments[x86::SS] = ss;
    };
    if (lock_step_ == nullptr && brief_returns_.expected(frame.rip)) {
        user_fault_.pending = false;
        unload_context(frame.rip);
        load_segments();
        registers_.gpr[x86::RSP] = frame.rsp;
        return stay_briefly(brief_returns_, flags);
    }
    const auto mode = prepare_program(flags);
    if (!mode) return std::nullopt;
    load_segments();
    load_program(*mode, frame.rsp, flags);
    *registers_.rip = frame.rip;
    if (user_fault_.pending) fill_after_fault();
    return crossed_to(frame.rip);
}

// The program's registers are in the interpreter's state, but for RFLAGS. It is believed to make its
// next system call, or fault, soon.
Executor::Next Executor::stay_briefly(BriefStays& places, std::uint64_t flags)
{
    const std::uint64_t rip = *registers_.rip;
    interpreter_.set_rflags(flags);
    interpreter_.mode_changed();
    // Kernels mask IF at the system call. One that does not is interpreted a little further.
    stop_ = at(Place::interpreter, [this] {
        return interpreter_.execute_briefly(IF, BriefStays::most_instructions);
    });
    const bool brief = registers_.state->cpl() != 3;
    ++(brief ? counts_.brief_stays : counts_.stays_not_brief);
    places.tried(rip, brief);
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
