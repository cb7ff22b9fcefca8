#include "engine/interpret/thunk/rewrite.h"

#include <algorithm>

namespace doppel::engine::interpret::thunk {

namespace {

constexpr unsigned rsp = 4;

// Outside 64-bit code the operand size of a few instructions hangs on the mode and VEX.W
// is ignored for general registers; the variant that decodes to the same operands wins.
struct Variant {
    bool toggle_operand_size, clear_w;
};
constexpr Variant variants[] = {{false, false}, {true, false}, {false, true}};

const ZydisDecoder& long_mode_decoder()
{
    static const ZydisDecoder decoder = [] {
        ZydisDecoder made;
        ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        return made;
    }();
    return decoder;
}

class Writer {
public:
    explicit Writer(Plan& plan) : plan_(plan) { plan_.length = 0; }
    bool put(unsigned value)
    {
        if (plan_.length >= 15) return false;
        plan_.bytes[plan_.length++] = static_cast<std::uint8_t>(value);
        return true;
    }
    [[nodiscard]] std::uint8_t& at(unsigned index) { return plan_.bytes[index]; }
    [[nodiscard]] unsigned size() const { return plan_.length; }

private:
    Plan& plan_;
};

const ZydisDecodedOperand* rsp_operand(const Decoded& decoded, ZydisOperandEncoding encoding)
{
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && operand.encoding == encoding &&
            ZydisRegisterGetClass(operand.reg.value) != ZYDIS_REGCLASS_GPR8 &&
            gpr_number(operand.reg.value) == static_cast<int>(rsp)) {
            return &operand;
        }
    }
    return nullptr;
}

bool put_prefixes(const Decoded& decoded, const Variant& variant, bool memory, Writer& out)
{
    const unsigned count = decoded.instruction.raw.prefix_count;
    const bool long_mode = decoded.code_size == CodeSize::bits64;
    bool operand_size = false;
    unsigned rex = 0;
    for (unsigned i = 0; i < count; ++i) {
        const std::uint8_t value = decoded.bytes[i];
        rex = 0;
        switch (value) {
        case 0x66: operand_size = true; break;
        case 0xf2: case 0xf3:
            if (!out.put(value)) return false;
            break;
        case 0xf0: return false;
        default:
            // Segment overrides and the address size went into the memory operand.
            if (long_mode && (value & 0xf0) == 0x40) rex = value;
            break;
        }
    }
    if (operand_size != variant.toggle_operand_size && !out.put(0x66)) return false;
    if (rex != 0) {
        if (memory) rex &= ~3u;  // [register] is one of the low eight, without index
        if (!out.put(rex)) return false;
    }
    return true;
}

// VEX or EVEX prefix bytes that were copied to `start`: the B and X of a memory operand,
// vvvv for a renamed RSP, W, and what code outside 64-bit mode leaves to chance.
void patch_vector_prefix(const Decoded& decoded, const Variant& variant, const Plan& plan,
                         unsigned start, Writer& out)
{
    const bool long_mode = decoded.code_size == CodeSize::bits64;
    const bool short_vex = out.at(start) == 0xc5;
    const unsigned vvvv_at = short_vex ? start + 1 : start + 2;
    if (!short_vex && (plan.memory.size != 0 || !long_mode)) out.at(start + 1) |= 0x60;
    if (!long_mode) out.at(vvvv_at) |= 0x40;
    if (!long_mode && out.at(start) == 0x62) out.at(start + 1) |= 0x10;
    if (rsp_operand(decoded, ZYDIS_OPERAND_ENCODING_NDSNDD) != nullptr) {
        const unsigned inverted = ~unsigned{plan.rsp_as} & 15;
        out.at(vvvv_at) = static_cast<std::uint8_t>((out.at(vvvv_at) & 0x87) | (inverted << 3));
    }
    if (!short_vex && variant.clear_w) out.at(start + 2) &= 0x7f;
}

bool build(const Decoded& decoded, const Variant& variant, Plan& plan)
{
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    const bool memory = plan.memory.size != 0;
    const bool has_modrm = (instruction.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    Writer out{plan};
    if (!put_prefixes(decoded, variant, memory, out)) return false;

    const unsigned start = out.size();
    unsigned from = instruction.raw.prefix_count;
    const unsigned modrm_at = has_modrm ? instruction.raw.modrm.offset : instruction.length;
    for (; from < modrm_at; ++from) {
        if (!out.put(decoded.bytes[from])) return false;
    }
    if (instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ||
        instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        patch_vector_prefix(decoded, variant, plan, start, out);
    } else if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        return false;
    }
    if (!has_modrm) return !memory;

    unsigned modrm = decoded.bytes[modrm_at];
    if (rsp_operand(decoded, ZYDIS_OPERAND_ENCODING_MODRM_REG) != nullptr) {
        modrm = (modrm & 0xc7) | (unsigned{plan.rsp_as} << 3);
    }
    unsigned rest = modrm_at + 1;
    if (memory) {
        if ((modrm & 0xc0) == 0xc0) return false;
        modrm = (modrm & 0x38) | plan.memory_register;
        if ((instruction.attributes & ZYDIS_ATTRIB_HAS_SIB) != 0) ++rest;
        rest += instruction.raw.disp.size / 8u;
    } else if (rsp_operand(decoded, ZYDIS_OPERAND_ENCODING_MODRM_RM) != nullptr) {
        modrm = (modrm & 0xf8) | plan.rsp_as;
    }
    if (!out.put(modrm)) return false;
    for (; rest < instruction.length; ++rest) {
        if (!out.put(decoded.bytes[rest])) return false;
    }
    const auto in_immediate = [](const ZydisDecodedOperand& operand) {
        return operand.encoding == ZYDIS_OPERAND_ENCODING_IS4;
    };
    if (decoded.code_size != CodeSize::bits64 &&
        std::any_of(decoded.operands.begin(), decoded.operands.end(), in_immediate)) {
        out.at(out.size() - 1) &= 0x7f;  // a register's highest bit, in 64-bit code alone
    }
    return true;
}

bool same_register(const Plan& plan, ZydisRegister guest, ZydisRegister host)
{
    const ZydisRegisterClass kind = ZydisRegisterGetClass(guest);
    if (kind == ZYDIS_REGCLASS_FLAGS) return ZydisRegisterGetClass(host) == kind;
    if (kind != ZydisRegisterGetClass(host)) return false;
    if (kind != ZYDIS_REGCLASS_GPR8 && gpr_number(guest) == static_cast<int>(rsp)) {
        return gpr_number(host) == plan.rsp_as;
    }
    return guest == host;
}

bool same_operand(const Plan& plan, const ZydisDecodedOperand& guest, const ZydisDecodedOperand& host)
{
    if (guest.type != host.type || guest.actions != host.actions) return false;
    switch (guest.type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        return same_register(plan, guest.reg.value, host.reg.value);
    case ZYDIS_OPERAND_TYPE_MEMORY:
        return guest.size == host.size && host.mem.type == ZYDIS_MEMOP_TYPE_MEM &&
               ZydisRegisterGetClass(host.mem.base) == ZYDIS_REGCLASS_GPR64 &&
               gpr_number(host.mem.base) == plan.memory_register &&
               host.mem.index == ZYDIS_REGISTER_NONE && host.mem.disp.value == 0;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return guest.imm.value.u == host.imm.value.u && !host.imm.is_relative;
    default:
        return false;
    }
}

bool matches(const Decoded& decoded, const Plan& plan)
{
    ZydisDecodedInstruction host;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&long_mode_decoder(), plan.bytes.data(), plan.length,
                                             &host, operands))) {
        return false;
    }
    const ZydisDecodedInstruction& guest = decoded.instruction;
    if (host.mnemonic != guest.mnemonic || host.length != plan.length ||
        host.meta.isa_set != guest.meta.isa_set || host.encoding != guest.encoding ||
        host.operand_count != guest.operand_count) {
        return false;
    }
    for (unsigned i = 0; i < host.operand_count; ++i) {
        if (!same_operand(plan, decoded.operands[i], operands[i])) return false;
    }
    return true;
}

}  // namespace

bool rewrite(const Decoded& decoded, Plan& plan)
{
    for (const Variant& variant : variants) {
        if (build(decoded, variant, plan) && matches(decoded, plan)) return true;
        if (decoded.code_size == CodeSize::bits64) return false;
    }
    return false;
}

}  // namespace doppel::engine::interpret::thunk
