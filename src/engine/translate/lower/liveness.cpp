#include "engine/translate/lower/liveness.h"

namespace doppel::engine::translate {

bool overwrites_flags(const Instruction& instruction)
{
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_SUB: case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_AND: case ZYDIS_MNEMONIC_OR: case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST: case ZYDIS_MNEMONIC_NEG:
        return true;
    default:
        return false;
    }
}

std::uint16_t dead_registers(std::span<const Instruction> instructions)
{
    std::uint32_t read = instructions.front().reads | (1u << rsp);
    std::uint32_t dead = instructions.front().overwrites & ~read;
    for (const Instruction& instruction : instructions.subspan(1)) {
        if (ends_block(instruction.kind)) break;
        read |= instruction.reads & ~dead;
        dead |= instruction.overwrites & ~read;
    }
    return static_cast<std::uint16_t>(dead);
}

bool flags_are_dead(std::span<const Instruction> instructions)
{
    for (const Instruction& instruction : instructions.subspan(1)) {
        if (ends_block(instruction.kind) || instruction.reads_flags) return false;
        if (overwrites_flags(instruction)) return true;
        if (instruction.changes_flags || (instruction.overwrites >> rsp & 1) != 0) return false;
    }
    return false;
}

}  // namespace doppel::engine::translate
