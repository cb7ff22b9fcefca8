// PUSH POP PUSHA POPA ENTER LEAVE PUSHF POPF.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

namespace rflags = x86::rflags;

std::uint64_t register_value(const Core& core, std::uint8_t n, unsigned size)
{
    const std::uint64_t value = core.gpr[n];
    return size == 2 ? value & 0xffff : size == 4 ? value & 0xffffffff : value;
}

void set_register(Core& core, std::uint8_t n, unsigned size, std::uint64_t value)
{
    switch (size) {
    case 2: set(core, n, static_cast<std::uint16_t>(value)); break;
    case 4: set(core, n, static_cast<std::uint32_t>(value)); break;
    default: core.gpr[n] = value; break;
    }
}

bool load_sized(Core& core, std::uint64_t linear, unsigned size, std::uint64_t& value)
{
    std::uint16_t narrow = 0;
    std::uint32_t middle = 0;
    if (size == 8) return core.load(linear, value);
    if (size == 4 ? !core.load(linear, middle) : !core.load(linear, narrow)) return false;
    value = size == 4 ? middle : narrow;
    return true;
}

bool store_sized(Core& core, std::uint64_t linear, unsigned size, std::uint64_t value)
{
    if (size == 8) return core.store(linear, value);
    return size == 4 ? core.store(linear, static_cast<std::uint32_t>(value))
                     : core.store(linear, static_cast<std::uint16_t>(value));
}

Flow push_register(Core& core, const Op& op) noexcept
{
    return core.push(core.gpr[op.rm], op.operand_size) ? Flow::next : core.pending_flow();
}

Flow push_immediate(Core& core, const Op& op) noexcept
{
    return core.push(op.immediate, op.operand_size) ? Flow::next : core.pending_flow();
}

Flow push_memory(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0;
    std::uint64_t value = 0;
    if (!core.operand_address(op, op.operand_size, false, linear) ||
        !load_sized(core, linear, op.operand_size, value) || !core.push(value, op.operand_size)) {
        return core.pending_flow();
    }
    return Flow::next;
}

Flow pop_register(Core& core, const Op& op) noexcept
{
    std::uint64_t value = 0;
    if (!core.pop(value, op.operand_size)) return core.pending_flow();
    set_register(core, op.rm, op.operand_size, value);
    return Flow::next;
}

// 64-bit code, 64-bit operands.
Flow push_flat(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP] - 8;
    if (!core.store(top, core.gpr[op.rm])) {
        MemoryAccess::as_stack_fault(core);
        return core.pending_flow();
    }
    core.gpr[x86::RSP] = top;
    return Flow::next;
}

Flow pop_flat(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    std::uint64_t value = 0;
    if (!core.load(top, value)) {
        MemoryAccess::as_stack_fault(core);
        return core.pending_flow();
    }
    core.gpr[x86::RSP] = top + 8;
    core.gpr[op.rm] = value;
    return Flow::next;
}

// An address with RSP in it uses RSP after the pop (SDM volume 2, POP).
Flow pop_memory(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    std::uint64_t linear = 0;
    std::uint64_t value = 0;
    if (!core.pop(value, op.operand_size)) return core.pending_flow();
    if (!core.operand_address(op, op.operand_size, true, linear) ||
        !store_sized(core, linear, op.operand_size, value)) {
        core.gpr[x86::RSP] = top;
        return core.pending_flow();
    }
    return Flow::next;
}

Flow pusha(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    for (std::uint8_t n = x86::RAX; n <= x86::RDI; ++n) {
        const std::uint64_t value = n == x86::RSP ? top : core.gpr[n];
        if (!core.push(value, op.operand_size)) {
            core.gpr[x86::RSP] = top;
            return core.pending_flow();
        }
    }
    return Flow::next;
}

Flow popa(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    std::array<std::uint64_t, 8> values{};
    for (unsigned n = 8; n-- > 0;) {
        if (!core.pop(values[n], op.operand_size)) {
            core.gpr[x86::RSP] = top;
            return core.pending_flow();
        }
    }
    for (std::uint8_t n = x86::RAX; n <= x86::RDI; ++n) {
        if (n != x86::RSP) set_register(core, n, op.operand_size, values[n]);
    }
    return Flow::next;
}

unsigned stack_width(const Core& core)
{
    return core.code_size == CodeSize::bits64 ? 8 : core.stack32 ? 4 : 2;
}

// op.extra: nesting level.
Flow enter(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    const unsigned width = stack_width(core);
    const unsigned level = op.extra & 31u;
    const auto fail = [&] {
        core.gpr[x86::RSP] = top;
        return core.pending_flow();
    };
    if (!core.push(core.gpr[x86::RBP], op.operand_size)) return fail();
    const std::uint64_t frame = register_value(core, x86::RSP, width);
    std::uint64_t from = core.gpr[x86::RBP];
    for (unsigned i = 1; i < level; ++i) {
        std::uint64_t linear = 0;
        std::uint64_t value = 0;
        from -= op.operand_size;
        const std::uint64_t offset = width == 8 ? from : from & (width == 4 ? 0xffffffff : 0xffff);
        if (!core.linear_address(x86::SS, offset, op.operand_size, false, linear) ||
            !load_sized(core, linear, op.operand_size, value) || !core.push(value, op.operand_size)) {
            return fail();
        }
    }
    if (level != 0 && !core.push(frame, op.operand_size)) return fail();
    const std::uint64_t below = core.gpr[x86::RSP] - (op.immediate & 0xffff);
    // The new top must be writable, though nothing is written (SDM volume 2, ENTER).
    std::uint64_t linear = 0;
    const std::uint64_t offset = width == 8 ? below : below & (width == 4 ? 0xffffffff : 0xffff);
    if (!core.linear_address(x86::SS, offset, op.operand_size, true, linear) ||
        !core.check_write(linear, op.operand_size)) {
        return fail();
    }
    set_register(core, x86::RSP, width, below);
    set_register(core, x86::RBP, op.operand_size, frame);
    return Flow::next;
}

Flow leave(Core& core, const Op& op) noexcept
{
    const std::uint64_t top = core.gpr[x86::RSP];
    const unsigned width = stack_width(core);
    std::uint64_t value = 0;
    set_register(core, x86::RSP, width, core.gpr[x86::RBP]);
    if (!core.pop(value, op.operand_size)) {
        core.gpr[x86::RSP] = top;
        return core.pending_flow();
    }
    set_register(core, x86::RBP, op.operand_size, value);
    return Flow::next;
}

unsigned iopl(const Core& core)
{
    return static_cast<unsigned>(core.state.rflags >> 12) & 3;
}

bool in_vm86(const Core& core)
{
    return core.state.protected_mode() && core.state.vm86();
}

// SDM volume 2, PUSHF; virtual-8086 extensions in volume 3 section 21.3.3.
Flow pushf(Core& core, const Op& op) noexcept
{
    std::uint64_t image = core.rflags() & ~(rflags::VM | rflags::RF);
    if (in_vm86(core) && iopl(core) < 3) {
        if (op.operand_size != 2 || (core.state.cr4 & x86::cr4::VME) == 0) {
            return core.raise(Vector::GP);
        }
        image |= rflags::IOPL;
        image = (image & ~rflags::IF) | ((image & rflags::VIF) != 0 ? rflags::IF : 0);
    }
    return core.push(image, op.operand_size) ? Flow::next : core.pending_flow();
}

// What POPF may change: everything but VM, RF, VIP and VIF; IOPL and IF by privilege.
Flow popf(Core& core, const Op& op) noexcept
{
    constexpr std::uint64_t common = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT |
                                     rflags::AC | rflags::ID;
    const std::uint64_t top = core.gpr[x86::RSP];
    const std::uint64_t old = core.rflags();
    const bool vm86 = in_vm86(core);
    const bool virtual_if = vm86 && iopl(core) < 3;
    if (virtual_if && (op.operand_size != 2 || (core.state.cr4 & x86::cr4::VME) == 0)) {
        return core.raise(Vector::GP);
    }
    std::uint64_t image = 0;
    if (!core.pop(image, op.operand_size)) return core.pending_flow();

    std::uint64_t changeable = common;
    if (virtual_if) {
        const bool wants_if = (image & rflags::IF) != 0;
        if ((wants_if && (old & rflags::VIP) != 0) || (image & rflags::TF) != 0) {
            core.gpr[x86::RSP] = top;
            return core.raise(Vector::GP);
        }
        image = (image & 0xffff) | (wants_if ? rflags::VIF : 0);
        changeable = (common & 0xffff) | rflags::VIF;
    } else {
        if (core.cpl == 0) changeable |= rflags::IOPL;
        if (core.cpl <= iopl(core)) changeable |= rflags::IF;
        if (op.operand_size == 2) changeable &= 0xffff;
    }
    const std::uint64_t value = (old & ~changeable) | (image & changeable);
    core.set_rflags(value & ~rflags::RF);
    // TF, or an interrupt that waits for IF.
    if (((value ^ old) & (rflags::TF | rflags::IF)) != 0) core.end_block();
    return Flow::next;
}

Handler choose_push(const Decoded& decoded, const Op& op)
{
    const auto& operand = decoded.operands[0];
    switch (operand.type) {
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: return push_immediate;
    case ZYDIS_OPERAND_TYPE_MEMORY: return push_memory;
    default: break;
    }
    const bool flat = decoded.code_size == CodeSize::bits64 && op.operand_size == 8;
    return flat ? push_flat : push_register;
}

Handler choose_pop(const Decoded& decoded, const Op& op)
{
    if (op.memory) return pop_memory;
    const bool flat = decoded.code_size == CodeSize::bits64 && op.operand_size == 8;
    return flat ? pop_flat : pop_register;
}

}  // namespace

Handler lower_stack(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH: return choose_push(decoded, op);
    case ZYDIS_MNEMONIC_POP: return choose_pop(decoded, op);
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        return pusha;
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return popa;
    case ZYDIS_MNEMONIC_ENTER:
        op.extra = static_cast<std::uint8_t>(decoded.operands[1].imm.value.u);
        return enter;
    case ZYDIS_MNEMONIC_LEAVE: return leave;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return pushf;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        return popf;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
