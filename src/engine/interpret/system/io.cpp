// IN, OUT, INS, OUTS. SDM volume 1 chapter 19.
//
// A repeated one leaves after each iteration with RIP on itself: the iteration has retired, its
// device accesses are forgotten, and interrupts and traps may come in between.
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {

constexpr std::uint8_t port_in_dx = 1;

std::uint16_t port_of(const Core& core, const Op& op)
{
    return static_cast<std::uint16_t>(op.extra == port_in_dx ? core.gpr[x86::RDX] : op.immediate);
}

void note(Core& core, std::uint16_t port, unsigned size)
{
    if (core.stepping) core.system->note_io_access(port, size);
}

Flow in(Core& core, const Op& op) noexcept
{
    const std::uint16_t port = port_of(core, op);
    const unsigned size = op.operand_size;
    FLOW_TRY(check_io(core, port, size));
    std::uint64_t value = 0;
    FLOW_TRY(done(core, core.io_read(port, size, value)));
    write_gpr(core, x86::RAX, size, value);
    note(core, port, size);
    return Flow::next;
}

Flow out(Core& core, const Op& op) noexcept
{
    const std::uint16_t port = port_of(core, op);
    const unsigned size = op.operand_size;
    FLOW_TRY(check_io(core, port, size));
    FLOW_TRY(done(core, core.io_write(port, size, read_gpr(core, x86::RAX, size))));
    note(core, port, size);
    return Flow::next;
}

// Moves the index register on, counts down, and says where to go.
Flow step_string(Core& core, const Op& op, unsigned index)
{
    const std::uint64_t size = op.operand_size;
    const bool down = (core.state.rflags & rflags::DF) != 0;
    const unsigned width = op.address_size;
    write_gpr(core, index, width, core.gpr[index] + (down ? 0 - size : size));
    if (!op.rep) return Flow::next;
    const std::uint64_t left = (read_gpr(core, x86::RCX, width) - 1) & size_mask(width);
    write_gpr(core, x86::RCX, width, left);
    if (left == 0) return Flow::next;
    core.end_block();
    core.state.rip = core.rip_of(op);
    return Flow::leave;
}

bool nothing_to_do(const Core& core, const Op& op)
{
    return op.rep && read_gpr(core, x86::RCX, op.address_size) == 0;
}

Flow ins(Core& core, const Op& op) noexcept
{
    if (nothing_to_do(core, op)) return Flow::next;
    const auto port = static_cast<std::uint16_t>(core.gpr[x86::RDX]);
    const unsigned size = op.operand_size;
    FLOW_TRY(check_io(core, port, size));
    std::uint64_t linear = 0, value = 0;
    const std::uint64_t offset = read_gpr(core, x86::RDI, op.address_size);
    FLOW_TRY(done(core, core.linear_address(x86::ES, offset, size, true, linear)));
    FLOW_TRY(done(core, core.check_write(linear, size)));
    FLOW_TRY(done(core, core.io_read(port, size, value)));
    FLOW_TRY(store(core, linear, size, value));
    note(core, port, size);
    return step_string(core, op, x86::RDI);
}

Flow outs(Core& core, const Op& op) noexcept
{
    if (nothing_to_do(core, op)) return Flow::next;
    const auto port = static_cast<std::uint16_t>(core.gpr[x86::RDX]);
    const unsigned size = op.operand_size;
    FLOW_TRY(check_io(core, port, size));
    std::uint64_t linear = 0, value = 0;
    const std::uint64_t offset = read_gpr(core, x86::RSI, op.address_size);
    FLOW_TRY(done(core, core.linear_address(op.extra, offset, size, false, linear)));
    FLOW_TRY(load(core, linear, size, value));
    FLOW_TRY(done(core, core.io_write(port, size, value)));
    note(core, port, size);
    return step_string(core, op, x86::RSI);
}

std::uint8_t source_segment(ZydisInstructionAttributes attributes)
{
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES) != 0) return x86::ES;
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) != 0) return x86::CS;
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS) != 0) return x86::SS;
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) != 0) return x86::FS;
    if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) return x86::GS;
    return x86::DS;
}

void lower_port(const Decoded& decoded, Op& op, std::size_t data, std::size_t port)
{
    op.operand_size = static_cast<std::uint8_t>(decoded.operands[data].size / 8);
    const auto& operand = decoded.operands[port];
    if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        op.extra = 0;
        op.immediate = operand.imm.value.u & 0xff;
    } else {
        op.extra = port_in_dx;
    }
}

}  // namespace

bool lower_io(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    const auto& instruction = decoded.instruction;
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_IN:
        lower_port(decoded, op, 0, 1);
        op.run = in;
        return true;
    case ZYDIS_MNEMONIC_OUT:
        lower_port(decoded, op, 1, 0);
        op.run = out;
        return true;
    case ZYDIS_MNEMONIC_INSB: op.operand_size = 1; op.run = ins; break;
    case ZYDIS_MNEMONIC_INSW: op.operand_size = 2; op.run = ins; break;
    case ZYDIS_MNEMONIC_INSD: op.operand_size = 4; op.run = ins; break;
    case ZYDIS_MNEMONIC_OUTSB: op.operand_size = 1; op.run = outs; break;
    case ZYDIS_MNEMONIC_OUTSW: op.operand_size = 2; op.run = outs; break;
    case ZYDIS_MNEMONIC_OUTSD: op.operand_size = 4; op.run = outs; break;
    default: return false;
    }
    constexpr auto repeats = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    op.rep = op.rep || op.repne || (instruction.attributes & repeats) != 0;
    op.address_size = static_cast<std::uint8_t>(instruction.address_width / 8);
    op.extra = source_segment(instruction.attributes);
    return true;
}

}  // namespace doppel::engine::interpret::privileged
