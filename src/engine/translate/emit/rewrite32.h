// Copies an instruction of 32-bit code into 64-bit code. Addresses are 32 bits wide there, too
// (prefix 67), so that they wrap where the guest's do.
#pragma once

#include <cstdint>

#include "engine/translate/emit/code.h"
#include "engine/translate/lower/instruction.h"

namespace doppel::engine::translate {

// R12 and R13 are scratch of one guest instruction, which 32-bit code has no registers to
// lose for. R14 and R15 hold the low halves of the guest's FS and GS bases.
inline constexpr std::uint8_t r8 = 8, r9 = 9, r10 = 10, r11 = 11, r12 = 12, r13 = 13,
    fs_register = 14, gs_register = 15;

struct Rewrite32 {
    bool window = false;  // the memory operand is seen through the host's GS
    std::uint8_t base = no_register;  // fs_register or gs_register is added to its address
    // Not 0: `mov` with this opcode (8b: load, 89: store) between the memory operand and `reg`,
    // in place of the instruction.
    std::uint8_t move = 0;
    std::uint8_t reg = no_register;
};

// False: it cannot be written. With a base it may use R12.
bool copy_code32(const Instruction& instruction, const Rewrite32& rewrite, Code& code);
// LEA: the low half of an address needs no prefix. to: instead of its own register.
bool copy_lea_code32(const Instruction& instruction, std::uint8_t to, Code& code);

}  // namespace doppel::engine::translate
