// The way of an exception or interrupt through the IVT or IDT to its handler, once. SDM
// volume 3 sections 6.12-6.14 and 21.1-21.3, volume 2 INT n.
#include <span>

#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret {

namespace {

using namespace privileged;

bool from_instruction(InterruptKind kind)
{
    return kind == InterruptKind::software || kind == InterruptKind::software_exception;
}

// EXT is added by deliver_once().
std::uint32_t gate_error(const Event& event) { return event.vector * 8u + 2; }

std::uint64_t pushed_flags(const Core& core, const Event& event)
{
    std::uint64_t flags = core.rflags() & ~rflags::RF;
    if (event.resume_flag) flags |= rflags::RF;
    return flags;
}

void clear_flags(Core& core, std::uint64_t bits) { core.set_rflags(core.rflags() & ~bits); }

// ---- real mode, and virtual-8086 mode through the redirection bitmap -----------------------

Flow deliver_real(Core& core, const Event& event, std::uint64_t table, std::uint64_t limit,
                  std::uint64_t flags)
{
    if (event.vector * 4u + 3u > limit) return core.raise(Vector::GP, gate_error(event));
    std::uint64_t entry = 0;
    FLOW_TRY(load_implicit(core, (table + event.vector * 4u) & 0xffffffff, 4, entry));
    StackCursor stack{core};
    FLOW_TRY(stack.check_room(6));
    FLOW_TRY(stack.push(flags, 2));
    FLOW_TRY(stack.push(core.state.segments[x86::CS].selector, 2));
    FLOW_TRY(stack.push(event.return_rip, 2));
    stack.commit();
    core.state.rip = entry & 0xffff;
    set_real_segment(core, x86::CS, static_cast<std::uint16_t>(entry >> 16));
    core.update_mode();
    return Flow::leave;
}

// INT n under CR4.VME: true in `redirect` when the program's own IVT serves it.
Flow vme_redirects(Core& core, std::uint8_t vector, bool& redirect)
{
    redirect = false;
    const Segment& tr = core.state.tr;
    if ((core.state.cr4 & cr4::VME) == 0 || (tr.type() & 8) == 0) return Flow::next;
    std::uint64_t io_map = 0, byte = 0;
    if (tr.limit < x86::tss32::MINIMUM_LIMIT) return core.raise(Vector::GP);
    FLOW_TRY(load_implicit(core, tr.base + x86::tss32::IO_MAP_BASE, 2, io_map));
    const std::uint64_t at = io_map - 32 + vector / 8u;
    if (io_map < 32 || at > tr.limit) return core.raise(Vector::GP);
    FLOW_TRY(load_implicit(core, (tr.base + at) & 0xffffffff, 1, byte));
    redirect = (byte >> (vector & 7u) & 1) == 0;
    return Flow::next;
}

Flow deliver_vme(Core& core, const Event& event)
{
    std::uint64_t flags = pushed_flags(core, event);
    std::uint64_t cleared = rflags::TF | rflags::NT | rflags::RF | rflags::AC;
    if (iopl(core) == 3) {
        cleared |= rflags::IF;
    } else {
        const bool vif = (flags & rflags::VIF) != 0;
        flags = (flags & ~rflags::IF) | rflags::IOPL | (vif ? rflags::IF : 0);
        cleared |= rflags::VIF;
    }
    const Flow flow = deliver_real(core, event, 0, 0xffff, flags);
    if (flow == Flow::leave) clear_flags(core, cleared & ~rflags::AC);
    return flow;
}

// ---- protected and IA-32e mode ---------------------------------------------------------------

Flow read_gate(Core& core, const Event& event, x86::Gate& gate)
{
    const bool wide = core.state.long_mode();
    const std::uint64_t size = wide ? 16 : 8;
    const std::uint64_t offset = event.vector * size;
    const std::uint32_t error = gate_error(event);
    if (offset + size - 1 > core.state.idtr.limit) return core.raise(Vector::GP, error);
    std::uint64_t low = 0, high = 0;
    const std::uint64_t linear = core.state.idtr.base + offset;
    FLOW_TRY(load_implicit(core, wide ? linear : linear & 0xffffffff, 8, low));
    if (wide) FLOW_TRY(load_implicit(core, linear + 8, 8, high));
    gate = wide ? x86::decode_gate16(low, high) : x86::decode_gate(low);

    bool known = gate.is(SystemType::INTERRUPT_GATE32) || gate.is(SystemType::TRAP_GATE32);
    if (!wide) {
        known = known || gate.is(SystemType::INTERRUPT_GATE16) || gate.is(SystemType::TRAP_GATE16) ||
                gate.is(SystemType::TASK_GATE);
    }
    if (!known) return core.raise(Vector::GP, error);
    if (from_instruction(event.kind) && gate.dpl < core.cpl) return core.raise(Vector::GP, error);
    if (!gate.present) return core.raise(Vector::NP, error);
    return Flow::next;
}

Flow check_handler(Core& core, const x86::Gate& gate, Descriptor& code, unsigned& cpl)
{
    if (x86::selector_null(gate.selector)) return core.raise(Vector::GP);
    const std::uint32_t error = x86::selector_error(gate.selector);
    FLOW_TRY(read_descriptor(core, gate.selector, Vector::GP, code));
    const Segment& cs = code.segment;
    if (!x86::is_code(cs) || cs.dpl() > core.cpl) return core.raise(Vector::GP, error);
    if (core.state.long_mode() && (!cs.l() || cs.db())) return core.raise(Vector::GP, error);
    if (!cs.present()) return core.raise(Vector::NP, error);
    cpl = x86::is_conforming(cs) ? core.cpl : cs.dpl();
    if (core.state.vm86() && cpl != 0) return core.raise(Vector::GP, error);
    return Flow::next;
}

Flow push_frame(StackCursor& stack, std::span<const std::uint64_t> values, unsigned size)
{
    FLOW_TRY(stack.check_room(size * static_cast<unsigned>(values.size())));
    for (const std::uint64_t value : values) FLOW_TRY(stack.push(value, size));
    return Flow::next;
}

// What is pushed, in order.
struct Frame {
    std::array<std::uint64_t, 10> values{};
    std::size_t count = 0;
    void add(std::uint64_t value) { values[count++] = value; }
    [[nodiscard]] std::span<const std::uint64_t> view() const { return {values.data(), count}; }
};

Frame make_frame(const Core& core, const Event& event, bool with_stack)
{
    const auto& segments = core.state.segments;
    Frame frame;
    if (core.state.vm86()) {
        for (const unsigned reg : {x86::GS, x86::FS, x86::DS, x86::ES}) {
            frame.add(segments[reg].selector);
        }
    }
    if (with_stack) {
        frame.add(segments[x86::SS].selector);
        frame.add(core.gpr[x86::RSP]);
    }
    frame.add(pushed_flags(core, event));
    frame.add(segments[x86::CS].selector);
    frame.add(event.return_rip);
    if (event.has_error_code) frame.add(event.error_code);
    return frame;
}

void enter_handler(Core& core, const x86::Gate& gate, const Descriptor& code, unsigned cpl)
{
    if (core.state.vm86()) {
        for (const unsigned reg : {x86::GS, x86::FS, x86::DS, x86::ES}) {
            core.state.segments[reg] = x86::null_segment(0);
        }
    }
    std::uint64_t cleared = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
    if (gate.is(SystemType::INTERRUPT_GATE16) || gate.is(SystemType::INTERRUPT_GATE32)) {
        cleared |= rflags::IF;
    }
    core.state.segments[x86::CS] = code_segment(code, gate.selector, cpl);
    core.state.rip = gate.offset;
    clear_flags(core, cleared);
    core.update_mode();
}

Flow deliver_long(Core& core, const Event& event, const x86::Gate& gate, Descriptor& code,
                  unsigned cpl)
{
    const bool inward = cpl < core.cpl;
    std::uint64_t pointer = core.gpr[x86::RSP];
    if (gate.ist != 0) {
        FLOW_TRY(tss64_stack(core, x86::tss64::ist(gate.ist), pointer));
    } else if (inward) {
        FLOW_TRY(tss64_stack(core, x86::tss64::rsp(cpl), pointer));
    }
    pointer &= ~std::uint64_t{15};
    FLOW_TRY(check_target(core, code.segment, gate.offset));
    FLOW_TRY(set_accessed(core, code));
    const Segment ss = inward ? x86::null_segment(static_cast<std::uint16_t>(cpl), cpl)
                              : core.state.segments[x86::SS];
    StackCursor stack{core, ss, pointer, cpl, true};
    FLOW_TRY(push_frame(stack, make_frame(core, event, true).view(), 8));
    core.state.segments[x86::SS] = ss;
    stack.commit();
    enter_handler(core, gate, code, cpl);
    return Flow::leave;
}

Flow deliver_legacy(Core& core, const Event& event, const x86::Gate& gate, Descriptor& code,
                    unsigned cpl)
{
    const unsigned size = gate.wide() ? 4 : 2;
    if (cpl == core.cpl) {
        StackCursor stack{core};
        const Frame frame = make_frame(core, event, false);
        FLOW_TRY(stack.check_room(size * static_cast<unsigned>(frame.count)));
        FLOW_TRY(check_target(core, code.segment, gate.offset));
        FLOW_TRY(set_accessed(core, code));
        FLOW_TRY(push_frame(stack, frame.view(), size));
        stack.commit();
        enter_handler(core, gate, code, cpl);
        return Flow::leave;
    }
    Descriptor ss;
    std::uint64_t pointer = 0;
    FLOW_TRY(inner_stack(core, cpl, ss, pointer));
    StackCursor stack{core, ss.segment, pointer, cpl, false};
    const Frame frame = make_frame(core, event, true);
    FLOW_TRY(stack.check_room(size * static_cast<unsigned>(frame.count)));
    FLOW_TRY(check_target(core, code.segment, gate.offset));
    FLOW_TRY(set_accessed(core, ss));
    FLOW_TRY(set_accessed(core, code));
    FLOW_TRY(push_frame(stack, frame.view(), size));
    core.state.segments[x86::SS] = ss.segment;
    stack.commit();
    enter_handler(core, gate, code, cpl);
    return Flow::leave;
}

Flow deliver_task(Core& core, const Event& event, const x86::Gate& gate)
{
    TaskRequest request;
    request.source = TaskSwitch::event;
    request.selector = gate.selector;
    request.next_rip = event.return_rip;
    request.push_error = event.has_error_code;
    request.error_code = event.error_code;
    request.resume_flag = event.resume_flag;
    FLOW_TRY(switch_task(core, request));
    return Flow::leave;
}

Flow deliver_protected(Core& core, const Event& event)
{
    x86::Gate gate;
    FLOW_TRY(read_gate(core, event, gate));
    if (gate.is(SystemType::TASK_GATE)) return deliver_task(core, event, gate);
    Descriptor code;
    unsigned cpl = 0;
    FLOW_TRY(check_handler(core, gate, code, cpl));
    return core.state.long_mode() ? deliver_long(core, event, gate, code, cpl)
                                  : deliver_legacy(core, event, gate, code, cpl);
}

Flow route(Core& core, const Event& event)
{
    if (!core.state.protected_mode()) {
        const Flow flow = deliver_real(core, event, core.state.idtr.base, core.state.idtr.limit,
                                       pushed_flags(core, event));
        if (flow == Flow::leave) {
            clear_flags(core, rflags::IF | rflags::TF | rflags::RF | rflags::AC);
        }
        return flow;
    }
    if (core.state.vm86() && event.kind == InterruptKind::software) {
        bool redirect = false;
        FLOW_TRY(vme_redirects(core, event.vector, redirect));
        if (redirect) return deliver_vme(core, event);
        if (iopl(core) < 3) return core.raise(Vector::GP);
    }
    return deliver_protected(core, event);
}

}  // namespace

Flow System::deliver_once(const Event& event)
{
    const Flow flow = route(core_, event);
    if (flow == Flow::leave) {
        core_.state.events.interrupt_shadow = false;
        if (event.kind == InterruptKind::nmi) core_.state.events.nmi_blocked = true;
        return flow;
    }
    if (flow == Flow::fault && !from_instruction(event.kind)) {
        switch (core_.fault.vector) {
        case Vector::TS: case Vector::NP: case Vector::SS: case Vector::GP:
            core_.fault.error_code |= 1;  // EXT
            break;
        default: break;
        }
    }
    return flow;
}

}  // namespace doppel::engine::interpret
