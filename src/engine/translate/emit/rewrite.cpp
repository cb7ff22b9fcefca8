#include "engine/translate/emit/rewrite.h"

#include "engine/translate/emit/writer.h"

namespace doppel::engine::translate {

namespace {

constexpr unsigned no_base_no_index = 0x25;  // SIB

bool moved(const Rewrite& rewrite)
{
    return rewrite.address != Rewrite::Address::same;
}

void put_prefixes(const Instruction& instruction, const Rewrite& rewrite, Writer& out)
{
    if (rewrite.segment != Segment::none) out.put(rewrite.segment == Segment::fs ? 0x64 : 0x65);
    const bool branch = rewrite.load_into != no_register;
    if (instruction.lock && !branch) out.put(0xf0);
    if (instruction.operand_size && !branch) out.put(0x66);
    if (instruction.repeat != 0 && !branch) out.put(instruction.repeat);
    if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return;
    unsigned rex = instruction.rex;
    if (branch) rex = 0x48 | (rex & 3) | (unsigned{rewrite.load_into} >> 3 << 2);
    if (moved(rewrite) && rex != 0) rex &= ~3u;
    if (rewrite.base != no_register) rex |= rewrite.base >= 8 ? 0x41u : 0;
    if (rex != 0) out.put(rex);
}

// The prefix bytes at `start`: B and X of a memory operand that moved.
void patch_vector_prefix(const Rewrite& rewrite, unsigned start, Writer& out)
{
    if (!moved(rewrite) || out.at(start) == 0xc5) return;
    out.at(start + 1) |= 0x60;
    if (rewrite.base != no_register && rewrite.base >= 8) {
        out.at(start + 1) &= static_cast<std::uint8_t>(~0x20u);
    }
}

void put_operand(const Instruction& instruction, const Rewrite& rewrite, Writer& out)
{
    unsigned modrm = instruction.modrm();
    if (rewrite.load_into != no_register) {
        modrm = (modrm & 0xc7) | ((rewrite.load_into & 7u) << 3);
    } else if (rewrite.rsp_as != rsp) {
        if (instruction.rsp_in_reg) modrm = (modrm & 0xc7) | (unsigned{rewrite.rsp_as} << 3);
        if (instruction.rsp_in_rm) modrm = (modrm & 0xf8) | rewrite.rsp_as;
    }
    switch (rewrite.address) {
    case Rewrite::Address::same:
        out.put(modrm);
        out.put(instruction.bytes + instruction.modrm_at + 1,
                instruction.behind_operand - instruction.modrm_at - 1u);
        break;
    case Rewrite::Address::absolute: {
        out.put((modrm & 0x38) | 4);
        out.put(no_base_no_index);
        out.put_dword(static_cast<std::uint32_t>(instruction.address));
        break;
    }
    case Rewrite::Address::based:
        out.put((modrm & 0x38) | (rewrite.base & 7u));
        break;
    }
}

}  // namespace

bool wide_base(const Instruction& instruction)
{
    if (instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) return instruction.rex != 0;
    return instruction.bytes[instruction.opcode_at] != 0xc5;
}

bool copy(const Instruction& instruction, const Rewrite& rewrite, Code& code)
{
    Writer out;
    put_prefixes(instruction, rewrite, out);
    const unsigned start = out.size();
    if (rewrite.load_into != no_register) {
        out.put(0x8b);
    } else {
        const unsigned end = instruction.modrm_at != 0 ? instruction.modrm_at : instruction.length;
        out.put(instruction.bytes + instruction.opcode_at, end - instruction.opcode_at);
    }
    if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        patch_vector_prefix(rewrite, start, out);
    }
    if (instruction.modrm_at != 0) {
        put_operand(instruction, rewrite, out);
        out.put(instruction.bytes + instruction.behind_operand,
                instruction.length - unsigned{instruction.behind_operand});
    }
    if (out.size() > Writer::longest) return false;
    code.bytes(out.data(), out.size());
    return true;
}

}  // namespace doppel::engine::translate
