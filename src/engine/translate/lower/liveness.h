// What the rest of a block does with a register or with the flags.
#pragma once

#include <span>

#include "engine/translate/lower/instruction.h"

namespace doppel::engine::translate {

// Registers that instructions[0] does not read and whose values nobody reads after it: it, or
// one behind it, overwrites them first. A bit each. The end of the block reads everything.
std::uint16_t dead_registers(std::span<const Instruction> instructions);

// Overwrites every status flag (an undefined one included) and reads none.
bool overwrites_flags(const Instruction& instruction);
// The status flags that instructions[0] leaves are all overwritten before one is read, and before
// RSP changes.
bool flags_are_dead(std::span<const Instruction> instructions);

}  // namespace doppel::engine::translate
