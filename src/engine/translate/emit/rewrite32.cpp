#include "engine/translate/emit/rewrite32.h"

#include "engine/translate/emit/writer.h"

namespace doppel::engine::translate {

namespace {

constexpr unsigned rex_b = 1, rex_x = 2, rex_r = 4;
constexpr unsigned sib_follows = 4;      // ModRM's r/m
constexpr unsigned no_base_no_index = 0x25;

bool is_legacy(const Instruction& instruction)
{
    return instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}

// Of the map without an escape byte.
bool is_one_byte(const Instruction& instruction, unsigned first, unsigned last)
{
    const unsigned opcode = instruction.bytes[instruction.opcode_at];
    return is_legacy(instruction) && opcode >= first && opcode <= last;
}

bool has_memory(const Instruction& instruction)
{
    return instruction.modrm_at != 0 && instruction.modrm() < 0xc0;
}

// Its address is a displacement alone, which 64-bit code takes for one relative to RIP.
bool is_absolute(const Instruction& instruction) { return (instruction.modrm() & 0xc7) == 5; }

// What lies between ModRM and the immediate.
void put_rest_of_operand(const Instruction& instruction, Writer& out)
{
    out.put(instruction.bytes + instruction.modrm_at + 1,
            instruction.behind_operand - instruction.modrm_at - 1u);
}

// `reg`: ModRM's middle field, in place.
void put_operand(const Instruction& instruction, unsigned reg, Writer& out)
{
    if (has_memory(instruction) && is_absolute(instruction)) {
        out.put(reg | sib_follows);
        out.put(no_base_no_index);
    } else {
        out.put((instruction.modrm() & 0xc7) | reg);
    }
    put_rest_of_operand(instruction, out);
}

// [base + displacement] or [base + r12].
void put_based_operand(const Instruction& instruction, const Rewrite32& rewrite, unsigned reg,
                       Writer& out)
{
    if (is_absolute(instruction)) {
        out.put(0x80 | reg | (rewrite.base & 7u));
        put_rest_of_operand(instruction, out);
        return;
    }
    out.put(reg | sib_follows);
    out.put((r12 & 7u) << 3 | (rewrite.base & 7u));
}

void put_prefixes(const Instruction& instruction, const Rewrite32& rewrite, Writer& out)
{
    const bool memory = has_memory(instruction);
    if (memory && rewrite.window) out.put(0x65);
    if (memory) out.put(0x67);
    if (rewrite.move != 0) return;
    if (instruction.lock) out.put(0xf0);
    if (instruction.operand_size) out.put(0x66);
    if (instruction.repeat != 0) out.put(instruction.repeat);
}

unsigned rex_of(const Instruction& instruction, const Rewrite32& rewrite)
{
    unsigned rex = rewrite.move != 0 && rewrite.reg >= 8 ? rex_r : 0;
    if (rewrite.base != no_register) rex |= rex_b | (is_absolute(instruction) ? 0 : rex_x);
    return rex;
}

// INC and DEC with the register in the opcode: REX in 64-bit code.
bool copy_increment(const Instruction& instruction, Code& code)
{
    const unsigned opcode = instruction.opcode;
    if (instruction.operand_size) code.byte(0x66);
    code.byte(0xff);
    code.byte(0xc0 | (opcode & 15u));
    return true;
}

// MOV between the accumulator and an address of its own: that is 64 bits wide in 64-bit code.
bool copy_accumulator_move(const Instruction& instruction, const Rewrite32& rewrite, Code& code)
{
    Writer out;
    if (rewrite.window) out.put(0x65);
    out.put(0x67);
    if (instruction.operand_size) out.put(0x66);
    const bool based = rewrite.base != no_register;
    if (based) out.put(0x41);
    constexpr std::uint8_t opcodes[] = {0x8a, 0x8b, 0x88, 0x89};
    out.put(opcodes[instruction.opcode & 3]);
    out.put(based ? 0x80 | (rewrite.base & 7u) : sib_follows);
    if (!based) out.put(no_base_no_index);
    out.put_dword(static_cast<std::uint32_t>(instruction.displacement));
    code.bytes(out.data(), out.size());
    return true;
}

}  // namespace

bool copy_lea_code32(const Instruction& instruction, std::uint8_t to, Code& code)
{
    const bool own = to == no_register;
    if (own && instruction.operand_size) code.byte(0x66);
    if (!own && to >= 8) code.byte(0x40 | rex_r);
    code.byte(0x8d);
    Writer out;
    put_operand(instruction, own ? instruction.modrm() & 0x38 : (to & 7u) << 3, out);
    code.bytes(out.data(), out.size());
    return true;
}

bool copy_code32(const Instruction& instruction, const Rewrite32& rewrite, Code& code)
{
    if (is_one_byte(instruction, 0x40, 0x4f)) return copy_increment(instruction, code);
    if (is_one_byte(instruction, 0xa0, 0xa3)) {
        return copy_accumulator_move(instruction, rewrite, code);
    }
    const bool based = rewrite.base != no_register;
    if (based && !has_memory(instruction)) return false;

    Writer out;
    put_prefixes(instruction, rewrite, out);
    const unsigned rex = rex_of(instruction, rewrite);
    if (rex != 0) {
        if (!is_legacy(instruction) || (instruction.high_byte && rewrite.move == 0)) return false;
        out.put(0x40 | rex);
    }
    unsigned reg = 0;
    if (rewrite.move != 0) {
        out.put(rewrite.move);
        reg = (rewrite.reg & 7u) << 3;
    } else if (is_one_byte(instruction, 0x82, 0x82)) {
        out.put(0x80);  // its other encoding
        reg = instruction.modrm() & 0x38;
    } else {
        const unsigned end = instruction.modrm_at != 0 ? instruction.modrm_at : instruction.length;
        out.put(instruction.bytes + instruction.opcode_at, end - instruction.opcode_at);
        if (instruction.modrm_at != 0) reg = instruction.modrm() & 0x38;
    }
    if (instruction.modrm_at != 0) {
        if (based) {
            put_based_operand(instruction, rewrite, reg, out);
        } else {
            put_operand(instruction, reg, out);
        }
        if (rewrite.move == 0) {
            out.put(instruction.bytes + instruction.behind_operand,
                    instruction.length - unsigned{instruction.behind_operand});
        }
    }
    if (out.size() > Writer::longest) return false;
    if (based && !is_absolute(instruction)) copy_lea_code32(instruction, r12, code);
    code.bytes(out.data(), out.size());
    return true;
}

}  // namespace doppel::engine::translate
