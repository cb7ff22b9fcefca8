#include "engine/interpret/system/far_return.h"

namespace doppel::engine::interpret::privileged {

Flow check_return_code(Core& core, FarReturn& back)
{
    if (x86::selector_null(back.selector)) return core.raise(Vector::GP);
    const std::uint32_t error = x86::selector_error(back.selector);
    FLOW_TRY(read_descriptor(core, back.selector, Vector::GP, back.code));
    const Segment& cs = back.code.segment;
    const unsigned rpl = x86::selector_rpl(back.selector);
    if (!x86::is_code(cs) || rpl < core.cpl) return core.raise(Vector::GP, error);
    if (x86::is_conforming(cs) ? cs.dpl() > rpl : cs.dpl() != rpl) {
        return core.raise(Vector::GP, error);
    }
    if (core.state.long_mode() && cs.l() && cs.db()) return core.raise(Vector::GP, error);
    if (!cs.present()) return core.raise(Vector::NP, error);
    back.cpl = rpl;
    back.code64 = core.state.long_mode() && cs.l();
    return Flow::next;
}

Flow check_return_stack(Core& core, FarReturn& back)
{
    if (x86::selector_null(back.ss_selector)) {
        // Null is a stack of 64-bit mode, outside ring 3.
        if (!back.code64 || back.cpl == 3 || x86::selector_rpl(back.ss_selector) != back.cpl) {
            return core.raise(Vector::GP);
        }
        back.stack = x86::null_segment(back.ss_selector, back.cpl);
        return Flow::next;
    }
    Descriptor ss;
    FLOW_TRY(check_stack_segment(core, back.ss_selector, back.cpl, Vector::GP, ss));
    FLOW_TRY(set_accessed(core, ss));
    back.stack = ss.segment;
    return Flow::next;
}

Flow commit_outer_return(Core& core, FarReturn& back, std::uint64_t release)
{
    FLOW_TRY(set_accessed(core, back.code));
    const unsigned width = back.code64 ? 8 : back.stack.db() ? 4 : 2;
    const bool outward = back.cpl > core.cpl;
    core.state.segments[x86::SS] = back.stack;
    core.state.segments[x86::CS] = code_segment(back.code, back.selector, back.cpl);
    if (outward) drop_inner_segments(core, back.cpl);
    core.state.rip = back.rip;
    set_stack_pointer(core, back.rsp + release, width);
    core.update_mode();
    return Flow::next;
}

}  // namespace doppel::engine::interpret::privileged
