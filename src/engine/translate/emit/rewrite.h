// Copies a guest instruction with changes: prefixes in canonical order and without those that
// mean nothing, another segment, another addressing mode, a register instead of RSP.
#pragma once

#include <cstdint>

#include "engine/translate/emit/code.h"
#include "engine/translate/lower/instruction.h"

namespace doppel::engine::translate {

struct Rewrite {
    Segment segment = Segment::none;
    enum class Address : std::uint8_t {
        same,
        absolute,  // [disp32] of Instruction::address, sign-extended
        based,     // [base], base being RAX RCX RDX RBX RSI RDI, or R8 R9 R10 R11 R14 R15 if
                   // wide_base() allows it
    } address = Address::same;
    std::uint8_t base = no_register;
    // A register below R8 takes RSP's place in ModRM's register fields.
    std::uint8_t rsp_as = rsp;
    // Copies the operand of an indirect branch into this register instead: mov to, r/m64.
    std::uint8_t load_into = no_register;
};

// R8 and up as Rewrite::base.
bool wide_base(const Instruction& instruction);

// False: it would be longer than an instruction may be; nothing was written. At most 15 bytes.
bool copy(const Instruction& instruction, const Rewrite& rewrite, Code& code);

}  // namespace doppel::engine::translate
