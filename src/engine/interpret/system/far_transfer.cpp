// JMP, CALL and RET far: code segments, call gates, tasks. SDM volume 3 section 5.8, volume 2
// CALL, JMP, RET.
#include "engine/interpret/system/far_return.h"
#include "engine/interpret/system/helpers.h"

namespace doppel::engine::interpret::privileged {

namespace {

struct Target {
    std::uint16_t selector = 0;
    std::uint64_t offset = 0;
    unsigned size = 0;  // of the operand: what is pushed, how wide the new RIP is
};

bool is_tss(const Segment& segment)
{
    return x86::is_system(segment, SystemType::TSS16_AVAILABLE) ||
           x86::is_system(segment, SystemType::TSS32_AVAILABLE);
}

// L and D together are reserved in IA-32e mode.
bool reserved_size(const Core& core, const Segment& segment)
{
    return core.state.long_mode() && segment.l() && segment.db();
}

void go(Core& core, const Segment& cs, std::uint64_t rip)
{
    core.state.rip = rip;
    set_segment(core, x86::CS, cs);
}

Flow far_real(Core& core, const Op& op, const Target& target, bool call)
{
    // Limit of CS stays as it is (unreal mode).
    const std::uint64_t rip = target.offset & size_mask(target.size);
    const std::uint64_t limit = core.state.vm86() ? 0xffff : core.state.segments[x86::CS].limit;
    if (rip > limit) return core.raise(Vector::GP);
    if (call) {
        StackCursor stack{core};
        FLOW_TRY(stack.check_room(2 * target.size));
        FLOW_TRY(stack.push(core.state.segments[x86::CS].selector, target.size));
        FLOW_TRY(stack.push(core.next_rip(op), target.size));
        stack.commit();
    }
    core.state.rip = rip;
    set_real_segment(core, x86::CS, target.selector);
    core.update_mode();
    return Flow::leave;
}

// A code segment named directly. SDM 5.8.1.
Flow far_code(Core& core, const Op& op, const Target& target, Descriptor& code, bool call)
{
    const std::uint32_t error = x86::selector_error(target.selector);
    const unsigned dpl = code.segment.dpl();
    const bool allowed = x86::is_conforming(code.segment)
                             ? dpl <= core.cpl
                             : x86::selector_rpl(target.selector) <= core.cpl && dpl == core.cpl;
    if (!x86::is_code(code.segment) || !allowed || reserved_size(core, code.segment)) {
        return core.raise(Vector::GP, error);
    }
    if (!code.segment.present()) return core.raise(Vector::NP, error);
    const std::uint64_t rip = target.offset & size_mask(target.size);
    StackCursor stack{core};
    if (call) FLOW_TRY(stack.check_room(2 * target.size));
    FLOW_TRY(check_target(core, code.segment, rip));
    FLOW_TRY(set_accessed(core, code));
    if (call) {
        FLOW_TRY(stack.push(core.state.segments[x86::CS].selector, target.size));
        FLOW_TRY(stack.push(core.next_rip(op), target.size));
        stack.commit();
    }
    go(core, code_segment(code, target.selector, core.cpl), rip);
    return Flow::leave;
}

// Copies parameters and enters inner code. SDM 5.8.5.
Flow gate_inward(Core& core, const Op& op, const x86::Gate& gate, Descriptor& code)
{
    const unsigned cpl = code.segment.dpl();
    const bool wide = core.state.long_mode();
    const unsigned size = wide ? 8 : gate.wide() ? 4 : 2;
    Descriptor ss;
    std::uint64_t pointer = 0;
    FLOW_TRY(inner_stack(core, cpl, ss, pointer));
    const unsigned parameters = wide ? 0 : gate.parameter_count;
    StackCursor inner{core, ss.segment, pointer, cpl, wide};
    FLOW_TRY(inner.check_room(size * (4 + parameters)));
    FLOW_TRY(check_target(core, code.segment, gate.offset));
    std::array<std::uint64_t, 31> copied{};
    StackCursor outer{core};
    for (unsigned i = 0; i < parameters; ++i) FLOW_TRY(outer.pop(copied[i], size));
    FLOW_TRY(set_accessed(core, code));
    if (!wide) FLOW_TRY(set_accessed(core, ss));
    FLOW_TRY(inner.push(core.state.segments[x86::SS].selector, size));
    FLOW_TRY(inner.push(core.gpr[x86::RSP], size));
    for (unsigned i = parameters; i-- > 0;) FLOW_TRY(inner.push(copied[i], size));
    FLOW_TRY(inner.push(core.state.segments[x86::CS].selector, size));
    FLOW_TRY(inner.push(core.next_rip(op), size));
    core.state.segments[x86::SS] = ss.segment;
    inner.commit();
    go(core, code_segment(code, gate.selector, cpl), gate.offset);
    return Flow::leave;
}

Flow far_gate(Core& core, const Op& op, const Target& target, const Descriptor& gate_at, bool call)
{
    const bool wide = core.state.long_mode();
    const std::uint32_t error = x86::selector_error(target.selector);
    x86::Gate gate = x86::decode_gate(gate_at.raw);
    if (gate.dpl < core.cpl || x86::selector_rpl(target.selector) > gate.dpl) {
        return core.raise(Vector::GP, error);
    }
    if (wide) {
        Descriptor copy = gate_at;
        std::uint64_t high = 0;
        FLOW_TRY(read_descriptor_high(core, target.selector, Vector::GP, copy, high));
        gate = x86::decode_gate16(gate_at.raw, high);
    }
    if (!gate.present) return core.raise(Vector::NP, error);

    if (x86::selector_null(gate.selector)) return core.raise(Vector::GP);
    const std::uint32_t code_error = x86::selector_error(gate.selector);
    Descriptor code;
    FLOW_TRY(read_descriptor(core, gate.selector, Vector::GP, code));
    const bool size_ok = !wide || (code.segment.l() && !code.segment.db());
    if (!x86::is_code(code.segment) || code.segment.dpl() > core.cpl || !size_ok) {
        return core.raise(Vector::GP, code_error);
    }
    const bool conforming = x86::is_conforming(code.segment);
    if (!call && !conforming && code.segment.dpl() != core.cpl) {
        return core.raise(Vector::GP, code_error);
    }
    if (!code.segment.present()) return core.raise(Vector::NP, code_error);
    if (call && !conforming && code.segment.dpl() < core.cpl) {
        return gate_inward(core, op, gate, code);
    }

    const unsigned size = wide ? 8 : gate.wide() ? 4 : 2;
    StackCursor stack{core};
    if (call) FLOW_TRY(stack.check_room(2 * size));
    FLOW_TRY(check_target(core, code.segment, gate.offset));
    FLOW_TRY(set_accessed(core, code));
    if (call) {
        FLOW_TRY(stack.push(core.state.segments[x86::CS].selector, size));
        FLOW_TRY(stack.push(core.next_rip(op), size));
        stack.commit();
    }
    go(core, code_segment(code, gate.selector, core.cpl), gate.offset);
    return Flow::leave;
}

// TSS or task gate. SDM 7.3.
Flow far_task(Core& core, const Op& op, const Target& target, const Descriptor& named, bool call)
{
    const std::uint32_t error = x86::selector_error(target.selector);
    if (named.segment.dpl() < core.cpl ||
        x86::selector_rpl(target.selector) > named.segment.dpl()) {
        return core.raise(Vector::GP, error);
    }
    if (!named.segment.present()) return core.raise(Vector::NP, error);
    TaskRequest request;
    request.source = call ? TaskSwitch::call : TaskSwitch::jump;
    request.selector = target.selector;
    request.next_rip = core.next_rip(op);
    if (x86::is_system(named.segment, SystemType::TASK_GATE)) {
        request.selector = x86::decode_gate(named.raw).selector;
    }
    FLOW_TRY(switch_task(core, request));
    return Flow::leave;
}

Flow far_transfer(Core& core, const Op& op, const Target& target, bool call)
{
    if (!descriptors_in_use(core)) return far_real(core, op, target, call);
    if (x86::selector_null(target.selector)) return core.raise(Vector::GP);
    Descriptor named;
    FLOW_TRY(read_descriptor(core, target.selector, Vector::GP, named));
    const Segment& segment = named.segment;
    if (segment.code_or_data()) return far_code(core, op, target, named, call);
    if (x86::is_system(segment, SystemType::CALL_GATE32) ||
        (!core.state.long_mode() && x86::is_system(segment, SystemType::CALL_GATE16))) {
        return far_gate(core, op, target, named, call);
    }
    if (!core.state.long_mode() &&
        (is_tss(segment) || x86::is_system(segment, SystemType::TASK_GATE))) {
        return far_task(core, op, target, named, call);
    }
    return core.raise(Vector::GP, x86::selector_error(target.selector));
}

// ptr16:16, ptr16:32: the selector travels in op.displacement.
template <bool call>
Flow far_direct(Core& core, const Op& op) noexcept
{
    Target target;
    target.selector = static_cast<std::uint16_t>(op.displacement);
    target.offset = op.immediate;
    target.size = op.operand_size;
    return far_transfer(core, op, target, call);
}

template <bool call>
Flow far_indirect(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0, selector = 0;
    Target target;
    target.size = op.operand_size;
    FLOW_TRY(done(core, core.operand_address(op, op.operand_size + 2u, false, linear)));
    FLOW_TRY(load(core, linear, op.operand_size, target.offset));
    FLOW_TRY(load(core, linear + op.operand_size, 2, selector));
    target.selector = static_cast<std::uint16_t>(selector);
    return far_transfer(core, op, target, call);
}

Flow far_ret(Core& core, const Op& op) noexcept
{
    const unsigned size = op.operand_size;
    StackCursor stack{core};
    std::uint64_t rip = 0, selector = 0;
    FLOW_TRY(stack.pop(rip, size));
    FLOW_TRY(stack.pop(selector, size));
    if (!descriptors_in_use(core)) {
        const std::uint64_t limit = core.state.vm86() ? 0xffff : core.state.segments[x86::CS].limit;
        if (rip > limit) return core.raise(Vector::GP);
        stack.skip(op.immediate);
        stack.commit();
        core.state.rip = rip;
        set_real_segment(core, x86::CS, static_cast<std::uint16_t>(selector));
        core.update_mode();
        return Flow::leave;
    }

    FarReturn back;
    back.rip = rip;
    back.selector = static_cast<std::uint16_t>(selector);
    FLOW_TRY(check_return_code(core, back));
    stack.skip(op.immediate);
    if (back.cpl == core.cpl) {
        FLOW_TRY(check_target(core, back.code.segment, rip));
        FLOW_TRY(set_accessed(core, back.code));
        stack.commit();
        go(core, code_segment(back.code, back.selector, back.cpl), rip);
        return Flow::leave;
    }
    std::uint64_t outer_selector = 0;
    FLOW_TRY(stack.pop(back.rsp, size));
    FLOW_TRY(stack.pop(outer_selector, size));
    back.ss_selector = static_cast<std::uint16_t>(outer_selector);
    FLOW_TRY(check_return_stack(core, back));
    FLOW_TRY(check_target(core, back.code.segment, rip));
    FLOW_TRY(commit_outer_return(core, back, op.immediate));
    return Flow::leave;
}

// By prefixes: 64-bit mode has no default of 64 for these.
std::uint8_t operand_size(const Decoded& decoded)
{
    if (decoded.instruction.raw.rex.W != 0) return 8;
    const bool prefix = (decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;
    return prefix != (decoded.code_size == CodeSize::bits16) ? 2 : 4;
}

}  // namespace

bool lower_far_transfer(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    const auto& instruction = decoded.instruction;
    if (instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR) return false;
    op.operand_size = operand_size(decoded);
    const bool call = instruction.mnemonic == ZYDIS_MNEMONIC_CALL;
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
        if (decoded.operands[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
            op.displacement = decoded.operands[0].ptr.segment;
            op.immediate = decoded.operands[0].ptr.offset;
            op.run = call ? far_direct<true> : far_direct<false>;
        } else {
            op.run = call ? far_indirect<true> : far_indirect<false>;
        }
        return true;
    case ZYDIS_MNEMONIC_RET:
        op.immediate = 0;
        if (decoded.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            op.immediate = decoded.operands[0].imm.value.u & 0xffff;
        }
        op.run = far_ret;
        return true;
    default: return false;
    }
}

}  // namespace doppel::engine::interpret::privileged
