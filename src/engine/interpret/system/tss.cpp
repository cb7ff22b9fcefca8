// Reads of the current task-state segment: inner stacks and the I/O bitmap. SDM volume 3
// sections 7.2.1, 7.7, volume 1 section 19.5.2.
#include "engine/interpret/system/helpers.h"

namespace doppel::engine::interpret::privileged {

namespace {

bool is_wide(const Segment& tr) { return (tr.type() & 8) != 0; }

Flow tss_load(Core& core, unsigned offset, unsigned size, std::uint64_t& value)
{
    const std::uint64_t linear = core.state.tr.base + offset;
    return load_implicit(core, core.state.long_mode() ? linear : linear & 0xffffffff, size, value);
}

}  // namespace

Flow tss64_stack(Core& core, unsigned offset, std::uint64_t& pointer)
{
    const Segment& tr = core.state.tr;
    if (tr.unusable() || offset + 7 > tr.limit) {
        return core.raise(Vector::TS, x86::selector_error(tr.selector));
    }
    FLOW_TRY(tss_load(core, offset, 8, pointer));
    return canonical(pointer) ? Flow::next : core.raise(Vector::SS);
}

Flow inner_stack(Core& core, unsigned new_cpl, Descriptor& ss, std::uint64_t& pointer)
{
    if (core.state.long_mode()) {
        FLOW_TRY(tss64_stack(core, x86::tss64::rsp(new_cpl), pointer));
        ss.segment = x86::null_segment(static_cast<std::uint16_t>(new_cpl), new_cpl);
        return Flow::next;
    }
    const Segment& tr = core.state.tr;
    const bool wide = is_wide(tr);
    const unsigned offset = wide ? x86::tss32::esp(new_cpl) : x86::tss16::sp(new_cpl);
    const unsigned last = offset + (wide ? 5 : 3);
    if (tr.unusable() || last > tr.limit) {
        return core.raise(Vector::TS, x86::selector_error(tr.selector));
    }
    std::uint64_t selector = 0;
    FLOW_TRY(tss_load(core, offset + (wide ? 4 : 2), 2, selector));
    FLOW_TRY(tss_load(core, offset, wide ? 4 : 2, pointer));
    return check_stack_segment(core, static_cast<std::uint16_t>(selector), new_cpl, Vector::TS, ss);
}

Flow check_io(Core& core, std::uint16_t port, unsigned size)
{
    if (!core.state.protected_mode()) return Flow::next;
    if (core.cpl <= iopl(core) && !core.state.vm86()) return Flow::next;
    const Segment& tr = core.state.tr;
    if (tr.unusable() || !is_wide(tr) || tr.limit < x86::tss32::MINIMUM_LIMIT) {
        return core.raise(Vector::GP);
    }
    std::uint64_t base = 0, bits = 0;
    FLOW_TRY(tss_load(core, x86::tss32::IO_MAP_BASE, 2, base));
    const std::uint64_t at = base + port / 8u;
    if (at + 1 > tr.limit) return core.raise(Vector::GP);
    FLOW_TRY(tss_load(core, static_cast<unsigned>(at), 2, bits));
    const std::uint64_t mask = ((1u << size) - 1) << (port & 7u);
    return (bits & mask) == 0 ? Flow::next : core.raise(Vector::GP);
}

}  // namespace doppel::engine::interpret::privileged
