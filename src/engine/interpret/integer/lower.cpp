#include "engine/interpret/lower.h"

#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

// Operands that the encoding leaves out (accumulators, shift by one) as registers of the op.
bool touches_special_register(const Decoded& decoded)
{
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        if (operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
            operand.type != ZYDIS_OPERAND_TYPE_REGISTER) {
            continue;
        }
        switch (ZydisRegisterGetClass(operand.reg.value)) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
            break;
        default:
            return true;
        }
    }
    return false;
}

}  // namespace

bool lower_integer(const Decoded& decoded, Op& op, Core&)
{
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return false;
    if (instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return false;
    if (touches_special_register(decoded)) return false;
    using Family = Handler (*)(const Decoded&, Op&);
    for (const Family family :
         {lower_move, lower_arithmetic, lower_branch, lower_stack, lower_shift, lower_bits,
          lower_multiply, lower_exchange, lower_string, lower_flags, lower_decimal}) {
        if (const Handler handler = family(decoded, op)) {
            op.run = handler;
            return true;
        }
    }
    return false;
}

}  // namespace doppel::engine::interpret
