// JMP CALL RET near, Jcc, LOOP, JCXZ.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

bool canonical(std::uint64_t address)
{
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}

// A target that the next fetch may start at; else #GP(0) is for the branch itself.
bool admissible(const Core& core, std::uint64_t target)
{
    return core.code_size == CodeSize::bits64 ? canonical(target)
                                              : target <= core.state.segments[x86::CS].limit;
}

inline Flow go(Core& core, std::uint64_t target)
{
    if (!admissible(core, target)) [[unlikely]] return core.raise(Vector::GP);
    core.state.rip = target;
    return Flow::leave;
}

// `fixed`: the target was found admissible when the branch was decoded.
enum class Target : std::uint8_t { fixed, checked };

template <Target target>
inline Flow take(Core& core, const Op& op)
{
    if constexpr (target == Target::checked) return go(core, op.immediate);
    core.state.rip = op.immediate;
    return Flow::leave;
}

template <Target target>
Flow jmp_relative(Core& core, const Op& op) noexcept
{
    return take<target>(core, op);
}

template <unsigned code, Target target>
Flow jcc(Core& core, const Op& op) noexcept
{
    if (!condition<code>(core.flags)) return Flow::next;
    return take<target>(core, op);
}

template <Target target>
Flow call_relative(Core& core, const Op& op) noexcept
{
    if (target == Target::checked && !admissible(core, op.immediate)) return core.raise(Vector::GP);
    if (!core.push(core.next_rip(op), op.operand_size)) return core.pending_flow();
    core.state.rip = op.immediate;
    return Flow::leave;
}

// 64-bit code: the hot path of push, written out.
Flow call_relative_flat(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP] - 8;
    if (!core.store(top, core.next_rip(op))) {
        MemoryAccess::as_stack_fault(core);
        return core.pending_flow();
    }
    core.gpr[x86::RSP] = top;
    core.state.rip = op.immediate;
    return Flow::leave;
}

bool indirect_target(Core& core, const Op& op, std::uint64_t& target)
{
    if (!op.memory) {
        target = core.gpr[op.rm];
        if (op.operand_size == 2) target &= 0xffff;
        if (op.operand_size == 4) target &= 0xffffffff;
        return true;
    }
    std::uint64_t linear = 0;
    if (!core.operand_address(op, op.operand_size, false, linear)) return false;
    std::uint16_t narrow = 0;
    std::uint32_t middle = 0;
    switch (op.operand_size) {
    case 2:
        if (!core.load(linear, narrow)) return false;
        target = narrow;
        return true;
    case 4:
        if (!core.load(linear, middle)) return false;
        target = middle;
        return true;
    default:
        return core.load(linear, target);
    }
}

Flow jmp_indirect(Core& core, const Op& op) noexcept
{
    std::uint64_t target = 0;
    if (!indirect_target(core, op, target)) return core.pending_flow();
    return go(core, target);
}

Flow call_indirect(Core& core, const Op& op) noexcept
{
    std::uint64_t target = 0;
    if (!indirect_target(core, op, target)) return core.pending_flow();
    if (!admissible(core, target)) return core.raise(Vector::GP);
    if (!core.push(core.next_rip(op), op.operand_size)) return core.pending_flow();
    core.state.rip = target;
    return Flow::leave;
}

Flow ret(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    std::uint64_t target = 0;
    if (!core.pop(target, op.operand_size)) return core.pending_flow();
    if (!admissible(core, target)) {
        core.gpr[x86::RSP] = top;
        return core.raise(Vector::GP);
    }
    // RET imm16 releases the caller's arguments.
    if (core.code_size == CodeSize::bits64) {
        core.gpr[x86::RSP] += op.immediate & 0xffff;
    } else if (core.stack32) {
        core.gpr[x86::RSP] = (core.gpr[x86::RSP] + (op.immediate & 0xffff)) & 0xffffffff;
    } else {
        set<std::uint16_t>(core, x86::RSP,
                           static_cast<std::uint16_t>(core.gpr[x86::RSP] + op.immediate));
    }
    core.state.rip = target;
    return Flow::leave;
}

Flow ret_flat(Core& core, const Op&) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    std::uint64_t target = 0;
    if (!core.load(top, target)) {
        MemoryAccess::as_stack_fault(core);
        return core.pending_flow();
    }
    if (!canonical(target)) return core.raise(Vector::GP);
    core.gpr[x86::RSP] = top + 8;
    core.state.rip = target;
    return Flow::leave;
}

std::uint64_t counter(const Core& core, const Op& op)
{
    const std::uint64_t rcx = core.gpr[x86::RCX];
    return op.address_size == 8 ? rcx : op.address_size == 4 ? rcx & 0xffffffff : rcx & 0xffff;
}

enum class LoopKind : std::uint8_t { always, while_zero, while_not_zero };

template <LoopKind kind>
Flow loop(Core& core, const Op& op) noexcept
{
    const std::uint64_t left = counter(core, op) - 1;
    bool taken = left != 0;
    if (op.address_size == 4) taken = (left & 0xffffffff) != 0;
    if (op.address_size == 2) taken = (left & 0xffff) != 0;
    const bool zero = (core.flags & packed::ZF) != 0;
    if (kind == LoopKind::while_zero) taken = taken && zero;
    if (kind == LoopKind::while_not_zero) taken = taken && !zero;
    if (taken && !admissible(core, op.immediate)) return core.raise(Vector::GP);
    switch (op.address_size) {
    case 2: set(core, x86::RCX, static_cast<std::uint16_t>(left)); break;
    case 4: set(core, x86::RCX, static_cast<std::uint32_t>(left)); break;
    default: core.gpr[x86::RCX] = left; break;
    }
    return taken ? take<Target::fixed>(core, op) : Flow::next;
}

Flow jcxz(Core& core, const Op& op) noexcept
{
    return counter(core, op) == 0 ? go(core, op.immediate) : Flow::next;
}

template <unsigned code = 0>
Handler choose_jcc(unsigned wanted, bool fixed)
{
    if constexpr (code < 16) {
        if (code != wanted) return choose_jcc<code + 1>(wanted, fixed);
        return fixed ? jcc<code, Target::fixed> : jcc<code, Target::checked>;
    } else {
        return nullptr;
    }
}

}  // namespace

Handler lower_branch(const Decoded& decoded, Op& op)
{
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    const bool relative = instruction.operand_count_visible != 0 &&
                          decoded.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    const bool code64 = decoded.code_size == CodeSize::bits64;
    // Only 64-bit targets stay admissible: the limit of CS may change.
    const bool fixed = code64 && canonical(op.immediate);
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        if (!relative) return jmp_indirect;
        return fixed ? jmp_relative<Target::fixed> : jmp_relative<Target::checked>;
    case ZYDIS_MNEMONIC_CALL:
        if (!relative) return call_indirect;
        if (fixed && op.operand_size == 8) return call_relative_flat;
        return call_relative<Target::checked>;
    case ZYDIS_MNEMONIC_RET:
        return code64 && op.operand_size == 8 && op.immediate == 0 ? ret_flat : ret;
    case ZYDIS_MNEMONIC_LOOP: return loop<LoopKind::always>;
    case ZYDIS_MNEMONIC_LOOPE: return loop<LoopKind::while_zero>;
    case ZYDIS_MNEMONIC_LOOPNE: return loop<LoopKind::while_not_zero>;
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        return jcxz;
    default:
        break;
    }
    if (instruction.meta.category != ZYDIS_CATEGORY_COND_BR || !relative) return nullptr;
    const bool short_form = instruction.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
                            (instruction.opcode & 0xf0) == 0x70;
    const bool near_form = instruction.opcode_map == ZYDIS_OPCODE_MAP_0F &&
                           (instruction.opcode & 0xf0) == 0x80;
    if (!short_form && !near_form) return nullptr;
    return choose_jcc(instruction.opcode & 0xfu, fixed);
}

}  // namespace doppel::engine::interpret
