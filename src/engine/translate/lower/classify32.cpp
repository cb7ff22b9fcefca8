// Where 32-bit code differs from 64-bit code in what its instructions mean.
#include "engine/translate/lower/classify.h"

#include <algorithm>

namespace doppel::engine::translate {

namespace {

bool is_32_bit(const ZydisDecodedInstruction& decoded) { return decoded.operand_width == 32; }

bool has_general_register(const ZydisDecodedInstruction& decoded,
                          const ZydisDecodedOperand* operands)
{
    return std::any_of(operands, operands + decoded.operand_count_visible, [](const auto& operand) {
        return operand.type == ZYDIS_OPERAND_TYPE_REGISTER &&
               operand.reg.value >= ZYDIS_REGISTER_AL && operand.reg.value <= ZYDIS_REGISTER_R15;
    });
}

// Also from or to memory, whose size W says in 64-bit code.
bool moves_integer(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VCVTSI2SD: case ZYDIS_MNEMONIC_VCVTSI2SS: case ZYDIS_MNEMONIC_VCVTSI2SH:
    case ZYDIS_MNEMONIC_VCVTUSI2SD: case ZYDIS_MNEMONIC_VCVTUSI2SS: case ZYDIS_MNEMONIC_VCVTUSI2SH:
    case ZYDIS_MNEMONIC_VMOVD: case ZYDIS_MNEMONIC_VMOVQ: case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPINSRQ: case ZYDIS_MNEMONIC_VPEXTRD: case ZYDIS_MNEMONIC_VPEXTRQ:
        return true;
    default:
        return false;
    }
}

// Bits of a VEX or EVEX prefix that name registers above the seventh, and are ignored or undefined
// in 32-bit code, say nothing in this one.
bool names_low_registers(const ZydisDecodedInstruction& decoded)
{
    const auto& raw = decoded.raw;
    switch (decoded.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        return raw.vex.R != 0 && raw.vex.X != 0 && raw.vex.B != 0 && (raw.vex.vvvv & 8) != 0;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        return raw.evex.R != 0 && raw.evex.X != 0 && raw.evex.B != 0 && raw.evex.R2 != 0 &&
               (raw.evex.vvvv & 8) != 0 && raw.evex.V2 != 0;
    default:
        return true;
    }
}

bool is_wide(const ZydisDecodedInstruction& decoded)
{
    if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) return decoded.raw.vex.W != 0;
    return decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && decoded.raw.evex.W != 0;
}

// A register number in an immediate, whose highest bit only 64-bit code looks at.
bool has_register_in_immediate(const ZydisDecodedInstruction& decoded,
                               const ZydisDecodedOperand* operands)
{
    return std::any_of(operands, operands + decoded.operand_count, [](const auto& operand) {
        return operand.encoding == ZYDIS_OPERAND_ENCODING_IS4;
    });
}

std::optional<Kind> by_vector_prefix(const ZydisDecodedInstruction& decoded,
                                     const ZydisDecodedOperand* operands)
{
    if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) return std::nullopt;
    if (!names_low_registers(decoded) || has_register_in_immediate(decoded, operands)) {
        return Kind::interpret;
    }
    // W is ignored where it would make an integer 64 bits wide.
    const bool integer = has_general_register(decoded, operands) || moves_integer(decoded.mnemonic);
    return is_wide(decoded) && integer ? std::optional{Kind::interpret} : std::nullopt;
}

// Not a segment register.
bool is_ordinary(const ZydisDecodedOperand& operand)
{
    return operand.type != ZYDIS_OPERAND_TYPE_REGISTER ||
           (operand.reg.value >= ZYDIS_REGISTER_EAX && operand.reg.value <= ZYDIS_REGISTER_EDI);
}

}  // namespace

std::optional<Kind> classify_code32(const ZydisDecodedInstruction& decoded,
                                    const ZydisDecodedOperand* operands)
{
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE) != 0) return Kind::interpret;
    // Not writable, and perhaps not readable.
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) != 0) return Kind::interpret;
    switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return is_32_bit(decoded) && is_ordinary(operands[0]) ? Kind::push : Kind::interpret;
    case ZYDIS_MNEMONIC_POP:
        return is_32_bit(decoded) && is_ordinary(operands[0]) ? Kind::pop : Kind::interpret;
    case ZYDIS_MNEMONIC_PUSHAD: return Kind::push_all;
    case ZYDIS_MNEMONIC_POPAD: return Kind::pop_all;
    case ZYDIS_MNEMONIC_PUSHFD: return Kind::pushf;
    case ZYDIS_MNEMONIC_JECXZ:
        return is_32_bit(decoded) ? Kind::loop : Kind::interpret;
    // 64-bit code has more vector registers to clear. (VZEROUPPER takes upper halves of registers
    // above the seventh along, which 32-bit code can neither set nor see.)
    case ZYDIS_MNEMONIC_VZEROALL:
    // Memory at EDI, which takes no prefix for a window.
    case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU: case ZYDIS_MNEMONIC_MASKMOVQ:
    // The address of the last instruction is the host's.
    case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FLDENV: case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR: case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_SYSCALL: case ZYDIS_MNEMONIC_SYSRET:
        return Kind::interpret;
    default:
        return by_vector_prefix(decoded, operands);
    }
}

}  // namespace doppel::engine::translate
