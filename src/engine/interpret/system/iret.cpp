// INT n, INT3, INTO, INT1 and IRET. SDM volume 2 INT n, IRET.
#include "engine/interpret/system/far_return.h"
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {

Flow software_event(Core& core, const Op& op, std::uint8_t vector, InterruptKind kind)
{
    Event event;
    event.vector = vector;
    event.kind = kind;
    event.return_rip = core.next_rip(op);
    if (kind == InterruptKind::icebp) core.state.dr6 &= ~std::uint64_t{0xf};
    const Flow flow = core.system->deliver_once(event);
    if (flow == Flow::leave && kind != InterruptKind::software) ++core.exceptions[vector];
    return flow;
}

Flow int_n(Core& core, const Op& op) noexcept
{
    return software_event(core, op, static_cast<std::uint8_t>(op.immediate), InterruptKind::software);
}

Flow int3(Core& core, const Op& op) noexcept
{
    return software_event(core, op, 3, InterruptKind::software_exception);
}

Flow int1(Core& core, const Op& op) noexcept
{
    return software_event(core, op, 1, InterruptKind::icebp);
}

Flow into(Core& core, const Op& op) noexcept
{
    if ((core.rflags() & rflags::OF) == 0) return Flow::next;
    return software_event(core, op, 4, InterruptKind::software_exception);
}

// ---- IRET -----------------------------------------------------------------------------------

// RFLAGS after IRET at this privilege with this operand size.
std::uint64_t merged_flags(const Core& core, std::uint64_t popped, unsigned size)
{
    std::uint64_t mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
    if (size > 2) mask |= rflags::RF | rflags::AC | rflags::ID;
    if (core.cpl <= iopl(core)) mask |= rflags::IF;
    if (core.cpl == 0) {
        mask |= rflags::IOPL;
        if (size > 2) mask |= rflags::VIF | rflags::VIP;
    }
    return (core.rflags() & ~(mask | rflags::RF)) | (popped & mask);
}

// IRET ends the blocking of NMIs, even when it faults in protected mode.
void unblock_nmi(Core& core) { core.state.events.nmi_blocked = false; }

struct Popped {
    std::uint64_t rip = 0, cs = 0, flags = 0;
};

Flow pop_frame(StackCursor& stack, unsigned size, Popped& frame)
{
    FLOW_TRY(stack.pop(frame.rip, size));
    FLOW_TRY(stack.pop(frame.cs, size));
    return stack.pop(frame.flags, size);
}

Flow iret_real(Core& core, const Op& op)
{
    const bool vm86 = core.state.vm86();
    const unsigned size = op.operand_size;
    // Below IOPL 3 only a 16-bit IRET of CR4.VME works, on VIF.
    const bool virtual_if = vm86 && iopl(core) < 3;
    if (virtual_if && ((core.state.cr4 & cr4::VME) == 0 || size != 2)) {
        return core.raise(Vector::GP);
    }
    StackCursor stack{core};
    Popped frame;
    FLOW_TRY(pop_frame(stack, size, frame));
    const std::uint64_t limit = vm86 ? 0xffff : core.state.segments[x86::CS].limit;
    if (frame.rip > limit) return core.raise(Vector::GP);
    std::uint64_t flags = 0;
    if (virtual_if) {
        const bool wants = (frame.flags & rflags::IF) != 0;
        if ((frame.flags & rflags::TF) != 0 ||
            (wants && (core.state.rflags & rflags::VIP) != 0)) {
            return core.raise(Vector::GP);
        }
        const std::uint64_t mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
        flags = (core.rflags() & ~(mask | rflags::VIF)) | (frame.flags & mask) |
                (wants ? rflags::VIF : 0);
    } else {
        std::uint64_t mask = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::IF;
        if (!vm86) mask |= rflags::IOPL;
        if (size > 2) mask |= rflags::RF | rflags::AC | rflags::ID;
        flags = (core.rflags() & ~mask) | (frame.flags & mask);
    }
    stack.commit();
    core.state.rip = frame.rip;
    set_real_segment(core, x86::CS, static_cast<std::uint16_t>(frame.cs));
    core.set_rflags(flags);
    core.update_mode();
    unblock_nmi(core);
    return Flow::leave;
}

Flow iret_to_vm86(Core& core, StackCursor& stack, const Popped& frame)
{
    std::uint64_t rsp = 0;
    std::array<std::uint64_t, 5> selectors{};  // SS ES DS FS GS
    FLOW_TRY(stack.pop(rsp, 4));
    for (std::uint64_t& selector : selectors) FLOW_TRY(stack.pop(selector, 4));
    if ((frame.rip & 0xffffffff) > 0xffff) return core.raise(Vector::GP);
    core.set_rflags((frame.flags & 0x3f7fd5) | rflags::RESERVED1);
    static constexpr std::array<unsigned, 5> order{x86::SS, x86::ES, x86::DS, x86::FS, x86::GS};
    for (std::size_t i = 0; i < order.size(); ++i) {
        core.state.segments[order[i]] = x86::vm86_segment(static_cast<std::uint16_t>(selectors[i]));
    }
    core.state.segments[x86::CS] = x86::vm86_segment(static_cast<std::uint16_t>(frame.cs));
    core.state.rip = frame.rip & 0xffff;
    core.gpr[x86::RSP] = rsp;
    core.update_mode();
    return Flow::leave;
}

Flow iret_task(Core& core, const Op& op)
{
    std::uint64_t link = 0;
    FLOW_TRY(load_implicit(core, core.state.tr.base & 0xffffffff, 2, link));
    TaskRequest request;
    request.source = TaskSwitch::iret;
    request.selector = static_cast<std::uint16_t>(link);
    request.next_rip = core.next_rip(op);
    FLOW_TRY(switch_task(core, request));
    return Flow::leave;
}

Flow iret_protected(Core& core, const Op& op)
{
    const unsigned size = op.operand_size;
    const bool wide = code64(core);
    if ((core.state.rflags & rflags::NT) != 0) {
        return core.state.long_mode() ? core.raise(Vector::GP) : iret_task(core, op);
    }
    StackCursor stack{core};
    Popped frame;
    FLOW_TRY(pop_frame(stack, size, frame));
    if (size == 4 && core.cpl == 0 && !core.state.long_mode() && (frame.flags & rflags::VM) != 0) {
        return iret_to_vm86(core, stack, frame);
    }
    FarReturn back;
    back.rip = frame.rip;
    back.selector = static_cast<std::uint16_t>(frame.cs);
    FLOW_TRY(check_return_code(core, back));
    const std::uint64_t flags = merged_flags(core, frame.flags, size);
    if (!wide && back.cpl == core.cpl) {
        FLOW_TRY(check_target(core, back.code.segment, back.rip));
        FLOW_TRY(set_accessed(core, back.code));
        stack.commit();
        core.state.segments[x86::CS] = code_segment(back.code, back.selector, back.cpl);
        core.state.rip = back.rip;
    } else {
        std::uint64_t selector = 0;
        FLOW_TRY(stack.pop(back.rsp, size));
        FLOW_TRY(stack.pop(selector, size));
        back.ss_selector = static_cast<std::uint16_t>(selector);
        FLOW_TRY(check_return_stack(core, back));
        FLOW_TRY(check_target(core, back.code.segment, back.rip));
        FLOW_TRY(commit_outer_return(core, back, 0));
    }
    core.set_rflags(flags);
    core.update_mode();
    return Flow::leave;
}

Flow iret(Core& core, const Op& op) noexcept
{
    if (!descriptors_in_use(core)) return iret_real(core, op);
    const Flow flow = iret_protected(core, op);
    if (flow != Flow::exit) unblock_nmi(core);
    return flow;
}

}  // namespace

bool lower_interrupts(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_INT:
        op.immediate = decoded.operands[0].imm.value.u & 0xff;
        op.run = int_n;
        return true;
    case ZYDIS_MNEMONIC_INT3: op.run = int3; return true;
    case ZYDIS_MNEMONIC_INT1: op.run = int1; return true;
    case ZYDIS_MNEMONIC_INTO: op.run = into; return true;
    case ZYDIS_MNEMONIC_IRET: op.operand_size = 2; op.run = iret; return true;
    case ZYDIS_MNEMONIC_IRETD: op.operand_size = 4; op.run = iret; return true;
    case ZYDIS_MNEMONIC_IRETQ: op.operand_size = 8; op.run = iret; return true;
    default: return false;
    }
}

}  // namespace doppel::engine::interpret::privileged
