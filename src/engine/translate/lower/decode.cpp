#include "engine/translate/lower/classify.h"
#include "engine/translate/lower/instruction.h"

#include <array>

namespace doppel::engine::translate {

namespace {

constexpr std::size_t longest = 15;

ZydisDecoder make_decoder(ZydisMachineMode mode, ZydisStackWidth stack)
{
    ZydisDecoder made;
    ZydisDecoderInit(&made, mode, stack);
    // Not offered to guests: their encodings are NOPs.
    ZydisDecoderEnableMode(&made, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&made, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    return made;
}

const ZydisDecoder& decoder_of(const Mode& mode)
{
    static const ZydisDecoder code64 = make_decoder(ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    static const ZydisDecoder code32 =
        make_decoder(ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    return mode.code32 ? code32 : code64;
}

struct General {
    std::uint8_t number = no_register;
    std::uint8_t width = 0;  // bits; high bytes (AH...) have 8 too
    bool high = false;
};

General general(ZydisRegister reg)
{
    const auto from = [reg](ZydisRegister first) { return static_cast<std::uint8_t>(reg - first); };
    if (reg < ZYDIS_REGISTER_AL || reg > ZYDIS_REGISTER_R15) return {};
    if (reg >= ZYDIS_REGISTER_RAX) return {from(ZYDIS_REGISTER_RAX), 64, false};
    if (reg >= ZYDIS_REGISTER_EAX) return {from(ZYDIS_REGISTER_EAX), 32, false};
    if (reg >= ZYDIS_REGISTER_AX) return {from(ZYDIS_REGISTER_AX), 16, false};
    // AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B...
    const std::uint8_t n = from(ZYDIS_REGISTER_AL);
    if (n < 4) return {n, 8, false};
    if (n < 8) return {static_cast<std::uint8_t>(n - 4), 8, true};
    return {static_cast<std::uint8_t>(n - 4), 8, false};
}
static_assert(ZYDIS_REGISTER_R15B - ZYDIS_REGISTER_AL == 19 &&
              ZYDIS_REGISTER_R15W - ZYDIS_REGISTER_AX == 15 &&
              ZYDIS_REGISTER_R15D - ZYDIS_REGISTER_EAX == 15 &&
              ZYDIS_REGISTER_R15 - ZYDIS_REGISTER_RAX == 15 &&
              ZYDIS_REGISTER_AL < ZYDIS_REGISTER_AX && ZYDIS_REGISTER_AX < ZYDIS_REGISTER_EAX &&
              ZYDIS_REGISTER_EAX < ZYDIS_REGISTER_RAX);

void note_register(const ZydisDecodedOperand& operand, const ZydisDecodedInstruction& decoded,
                   Instruction& instruction)
{
    const General reg = general(operand.reg.value);
    if (reg.number == no_register) return;
    const auto bit = static_cast<std::uint16_t>(1u << reg.number);
    const bool read = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    const bool written = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    // BSF and BSR of zero leave the destination as it was.
    const bool whole = (operand.actions & ZYDIS_OPERAND_ACTION_WRITE) != 0 && reg.width >= 32 &&
                       decoded.mnemonic != ZYDIS_MNEMONIC_BSF &&
                       decoded.mnemonic != ZYDIS_MNEMONIC_BSR;
    instruction.high_byte |= reg.high;
    if (whole) instruction.overwrites |= bit;
    if (read || !whole) instruction.reads |= bit;

    if (reg.number != rsp || reg.high || operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
        return;
    }
    instruction.rsp_operand = true;
    instruction.rsp_read |= read || reg.width < 32 || !whole;
    instruction.rsp_written |= written;
    switch (operand.encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: instruction.rsp_in_reg = true; break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: instruction.rsp_in_rm = true; break;
    default: instruction.rsp_elsewhere = true; break;
    }
}

void note_address_register(ZydisRegister value, std::uint8_t& number, Instruction& instruction)
{
    const General reg = general(value);
    if (reg.number == no_register) return;
    number = reg.number;
    instruction.reads |= static_cast<std::uint16_t>(1u << reg.number);
}

void note_memory(const ZydisDecodedOperand& operand, std::uint64_t next_rip,
                 Instruction& instruction)
{
    std::uint8_t unused = 0;
    const bool is_explicit = operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
    note_address_register(operand.mem.base, is_explicit ? instruction.base : unused, instruction);
    note_address_register(operand.mem.index, is_explicit ? instruction.index : unused, instruction);
    if (!is_explicit) return;
    instruction.memory = true;
    instruction.far_index = operand.mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    instruction.displacement = operand.mem.disp.has_displacement ? operand.mem.disp.value : 0;
    if (operand.mem.base == ZYDIS_REGISTER_RIP) {
        instruction.base = rip_register;
        instruction.address = next_rip + static_cast<std::uint64_t>(operand.mem.disp.value);
    }
}

void note_operands(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
                   std::uint64_t next_rip, Instruction& instruction)
{
    bool has_immediate = false;
    for (unsigned i = 0; i < decoded.operand_count; ++i) {
        const ZydisDecodedOperand& operand = operands[i];
        switch (operand.type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            note_register(operand, decoded, instruction);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            note_memory(operand, next_rip, instruction);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (!has_immediate) {
                instruction.immediate = operand.imm.value.u;
                if (operand.imm.is_relative != 0) instruction.immediate += next_rip;
            }
            has_immediate = true;
            break;
        default:
            break;
        }
    }
    // The idioms for zero read nothing.
    if ((decoded.mnemonic == ZYDIS_MNEMONIC_XOR || decoded.mnemonic == ZYDIS_MNEMONIC_SUB) &&
        operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        operands[0].reg.value == operands[1].reg.value) {
        instruction.reads &= static_cast<std::uint16_t>(~instruction.overwrites);
    }
}

void note_prefixes(const ZydisDecodedInstruction& decoded, Instruction& instruction)
{
    const unsigned count = decoded.raw.prefix_count;
    for (unsigned i = 0; i < count; ++i) {
        const auto& prefix = decoded.raw.prefixes[i];
        if (prefix.type == ZYDIS_PREFIX_TYPE_IGNORED) continue;
        switch (prefix.value) {
        case 0x66: instruction.operand_size = true; break;
        case 0xf2: case 0xf3:
            // The others are hints of features not offered (XACQUIRE, BND).
            if (prefix.type == ZYDIS_PREFIX_TYPE_MANDATORY) instruction.repeat = prefix.value;
            break;
        default:
            break;
        }
    }
    instruction.lock = (decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    if (count != 0 && (instruction.bytes[count - 1] & 0xf0) == 0x40) {
        instruction.rex = instruction.bytes[count - 1];
    }
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) != 0) instruction.segment = Segment::fs;
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) instruction.segment = Segment::gs;
}

void note_layout(const ZydisDecodedInstruction& decoded, Instruction& instruction)
{
    instruction.opcode = decoded.opcode;
    instruction.opcode_at = decoded.raw.prefix_count;
    instruction.encoding = decoded.encoding;
    instruction.operand_width = static_cast<std::uint8_t>(decoded.operand_width);
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM) == 0) return;
    instruction.modrm_at = decoded.raw.modrm.offset;
    unsigned behind = instruction.modrm_at + 1u;
    if (decoded.raw.modrm.mod != 3) {
        if ((decoded.attributes & ZYDIS_ATTRIB_HAS_SIB) != 0) ++behind;
        behind += decoded.raw.disp.size / 8u;
    }
    instruction.behind_operand = static_cast<std::uint8_t>(behind);
}

void note_flags(const ZydisDecodedInstruction& decoded, Instruction& instruction)
{
    constexpr std::uint32_t status = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF |
                                     ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF;
    const ZydisAccessedFlags* flags = decoded.cpu_flags;
    if (flags == nullptr) return;
    instruction.defines_flags =
        static_cast<std::uint16_t>((flags->modified | flags->set_0 | flags->set_1) & status);
    instruction.undefines_flags = static_cast<std::uint16_t>(flags->undefined & status);
    instruction.reads_flags = (flags->tested & status) != 0;
    instruction.changes_flags =
        ((flags->modified | flags->set_0 | flags->set_1 | flags->undefined) & status) != 0;
}

}  // namespace

Decoding decode(std::span<const std::uint8_t> bytes, std::uint64_t rip, const Mode& mode,
                const x86::CpuidPolicy& cpuid, Instruction& instruction)
{
    ZydisDecodedInstruction decoded;
    std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;
    const std::size_t size = bytes.size() < longest ? bytes.size() : longest;
    const ZyanStatus status = ZydisDecoderDecodeFull(&decoder_of(mode), bytes.data(), size,
                                                     &decoded, operands.data());
    if (status == ZYDIS_STATUS_NO_MORE_DATA && size < longest) return Decoding::incomplete;
    if (!ZYAN_SUCCESS(status)) return Decoding::undefined;

    instruction.bytes = bytes.data();
    instruction.length = decoded.length;
    instruction.mnemonic = decoded.mnemonic;
    note_prefixes(decoded, instruction);
    note_layout(decoded, instruction);
    note_operands(decoded, operands.data(), rip + decoded.length, instruction);
    note_flags(decoded, instruction);
    if (mode.code32) instruction.immediate &= 0xffffffff;
    instruction.kind = classify(decoded, operands.data(), mode, cpuid);
    return Decoding::decoded;
}

}  // namespace doppel::engine::translate
