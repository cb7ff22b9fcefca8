#include "engine/interpret/thunk/plan.h"

#include <algorithm>
#include <bit>

#include "engine/interpret/thunk/rewrite.h"

namespace doppel::engine::interpret::thunk {

namespace {

constexpr ZydisOperandActions any_write = ZYDIS_OPERAND_ACTION_MASK_WRITE;
constexpr unsigned rsp = 4;

bool is_float(const ZydisDecodedOperand& operand)
{
    switch (operand.element_type) {
    case ZYDIS_ELEMENT_TYPE_FLOAT16: case ZYDIS_ELEMENT_TYPE_FLOAT32:
    case ZYDIS_ELEMENT_TYPE_FLOAT64: case ZYDIS_ELEMENT_TYPE_FLOAT80:
        return true;
    default:
        return false;
    }
}

bool computes(const ZydisDecodedInstruction& instruction)
{
    switch (instruction.meta.category) {
    case ZYDIS_CATEGORY_DATAXFER: case ZYDIS_CATEGORY_LOGICAL_FP: case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_BROADCAST: case ZYDIS_CATEGORY_EXPAND: case ZYDIS_CATEGORY_COMPRESS:
    case ZYDIS_CATEGORY_BLEND:
        return false;
    default:
        return true;
    }
}

bool reports_exceptions(const ZydisDecodedInstruction& instruction)
{
    switch (instruction.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2: case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2: case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11: case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E3: case ZYDIS_EXCEPTION_CLASS_E11:
        return true;
    default:
        return false;
    }
}

// Waiting x87 instructions report pending exceptions first (SDM volume 1 section 8.3.11).
bool x87_waits(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT: case ZYDIS_MNEMONIC_FNCLEX: case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW: case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FENI8087_NOP: case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return false;
    default:
        return true;
    }
}

bool add_register(Plan& plan, const ZydisDecodedOperand& operand, bool legacy)
{
    const ZydisRegister reg = operand.reg.value;
    const bool written = (operand.actions & any_write) != 0;
    const bool merged = legacy || operand.actions != ZYDIS_OPERAND_ACTION_WRITE;
    const auto width = static_cast<std::uint8_t>(operand.size / 8);
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8: case ZYDIS_REGCLASS_GPR16: case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: {
        const auto bit = 1u << static_cast<unsigned>(gpr_number(reg));
        plan.gpr_used |= bit;
        if (written) plan.gpr_written |= bit;
        return true;
    }
    case ZYDIS_REGCLASS_XMM: case ZYDIS_REGCLASS_YMM: case ZYDIS_REGCLASS_ZMM: {
        const auto number = static_cast<unsigned>(vector_number(reg));
        const auto whole = static_cast<std::uint8_t>(ZydisRegisterGetWidth(
                               ZYDIS_MACHINE_MODE_LONG_64, reg) / 8);
        if (merged) {
            plan.vector_width[number] = std::max({plan.vector_width[number], width, whole});
        }
        if (written) plan.vector_written |= 1u << number;
        return true;
    }
    case ZYDIS_REGCLASS_MASK: {
        const auto bit = static_cast<std::uint8_t>(1u << (reg - ZYDIS_REGISTER_K0));
        plan.mask_used |= bit;
        if (written) plan.mask_written |= bit;
        return true;
    }
    case ZYDIS_REGCLASS_X87: case ZYDIS_REGCLASS_MMX:
        plan.x87 = true;
        return true;
    case ZYDIS_REGCLASS_FLAGS:
        plan.flags = true;
        return true;
    default:
        break;
    }
    if (reg == ZYDIS_REGISTER_MXCSR) {
        plan.mxcsr = true;
        return true;
    }
    if (reg == ZYDIS_REGISTER_X87CONTROL || reg == ZYDIS_REGISTER_X87STATUS ||
        reg == ZYDIS_REGISTER_X87TAG) {
        plan.x87 = true;
        return true;
    }
    return false;
}

// EVEX element bookkeeping for a masked memory operand.
void add_opmask(MemoryOperand& memory, const ZydisDecodedInstruction& instruction,
                const ZydisDecodedOperand& operand, const ZydisDecodedOperand& first)
{
    switch (instruction.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1NF: case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF: case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF: case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF: case ZYDIS_EXCEPTION_CLASS_E10NF:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return;  // these read the whole operand whatever the mask
    default:
        break;
    }
    if (instruction.mnemonic == ZYDIS_MNEMONIC_VDBPSADBW) return;  // class E4NF, unknown to Zydis
    // A full-width result with smaller elements than the operand's (VCVTNE2PS2BF16,
    // GF2P8AFFINEQB): no element of the operand belongs to one mask bit, all are read.
    if (first.type == ZYDIS_OPERAND_TYPE_REGISTER && vector_number(first.reg.value) >= 0 &&
        first.size == instruction.avx.vector_length && first.element_size < operand.element_size &&
        (operand.size == first.size ||
         instruction.avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID)) {
        return;
    }
    memory.masking = Masking::opmask;
    memory.mask_register = static_cast<std::uint8_t>(instruction.avx.mask.reg - ZYDIS_REGISTER_K0);
    unsigned elements = std::max<unsigned>(operand.element_count, 1);
    // A vector destination has one mask bit per element of its own.
    const bool vector_first = first.type == ZYDIS_OPERAND_TYPE_REGISTER &&
                              vector_number(first.reg.value) >= 0;
    unsigned bits = elements;
    if (vector_first) {
        bits = std::max<unsigned>(first.element_count, 1);
        if (first.size == operand.size) elements = bits;
    }
    if (instruction.meta.category == ZYDIS_CATEGORY_EXPAND ||
        instruction.meta.category == ZYDIS_CATEGORY_COMPRESS) {
        memory.masking = Masking::opmask_packed;
    } else if (instruction.avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID) {
        // One bit per element of the whole vector, which a mask destination does not tell.
        memory.masking = Masking::opmask_fold;
        if (!instruction.avx.broadcast.is_static) elements = 1;
        if (!vector_first) bits = instruction.avx.vector_length / std::max<unsigned>(operand.element_size, 1);
    } else if (bits > elements) {
        bits = elements;
    }
    memory.mask_bits = static_cast<std::uint8_t>(bits);
    memory.elements = static_cast<std::uint8_t>(elements);
    memory.element_size = static_cast<std::uint8_t>(memory.size / elements);
}

bool sign_masked(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

// SDM volume 2 section 2.4: unaligned although of type 4.
bool takes_any_alignment(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS: case ZYDIS_MNEMONIC_MOVUPD: case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU: case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
        return true;
    default:
        return false;
    }
}

std::uint16_t alignment_of(const ZydisDecodedInstruction& instruction, std::uint16_t size)
{
    if (instruction.mnemonic == ZYDIS_MNEMONIC_CVTPD2PI ||
        instruction.mnemonic == ZYDIS_MNEMONIC_CVTTPD2PI) {
        return size;
    }
    switch (instruction.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1: case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_E1: case ZYDIS_EXCEPTION_CLASS_E1NF:
        return std::has_single_bit(size) ? size : std::uint16_t{1};
    // Legacy encodings of types 2 and 4 want alignment too, before the page is looked at.
    case ZYDIS_EXCEPTION_CLASS_SSE2: case ZYDIS_EXCEPTION_CLASS_SSE4:
        return size == 16 && !takes_any_alignment(instruction.mnemonic) ? size : std::uint16_t{1};
    default:
        return 1;
    }
}

bool add_memory(Plan& plan, const Decoded& decoded, const ZydisDecodedOperand& operand)
{
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    if (plan.memory.size != 0 || operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
        operand.mem.type != ZYDIS_MEMOP_TYPE_MEM || operand.size == 0 || operand.size > 1024) {
        return false;
    }
    MemoryOperand& memory = plan.memory;
    memory.size = static_cast<std::uint16_t>((operand.size + 7) / 8);
    memory.read = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    memory.write = (operand.actions & any_write) != 0;
    memory.alignment = alignment_of(instruction, memory.size);
    const bool masked = instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
                        instruction.avx.mask.reg != ZYDIS_REGISTER_NONE &&
                        instruction.avx.mask.reg != ZYDIS_REGISTER_K0;
    if (masked) {
        // A masked store leaves other elements alone: it reads nothing.
        add_opmask(memory, instruction, operand, decoded.operands[0]);
        if (memory.write) memory.read = false;
    } else if (sign_masked(instruction.mnemonic)) {
        memory.masking = Masking::sign;
        memory.element_size = instruction.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
                                      instruction.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ ? 8 : 4;
        memory.elements = static_cast<std::uint8_t>(memory.size / memory.element_size);
        memory.mask_bits = memory.elements;
        memory.mask_register = static_cast<std::uint8_t>(vector_number(decoded.operands[1].reg.value));
    }
    return true;
}

// RSI, RCX, RDI and RBX address memory without SIB or displacement. RAX and RDX are kept
// for flags and XSAVE.
bool choose_registers(Plan& plan)
{
    std::uint32_t taken = plan.gpr_used & ~(1u << rsp);
    const auto choose = [&taken](std::initializer_list<unsigned> candidates, std::uint8_t& chosen) {
        for (const unsigned reg : candidates) {
            if ((taken & (1u << reg)) != 0) continue;
            taken |= 1u << reg;
            chosen = static_cast<std::uint8_t>(reg);
            return true;
        }
        return false;
    };
    if (plan.memory.size != 0 && !choose({6, 1, 7, 3}, plan.memory_register)) return false;
    if ((plan.gpr_used & (1u << rsp)) != 0 && !choose({1, 6, 7, 3, 5}, plan.rsp_as)) return false;
    return choose({7, 8, 9, 10, 11}, plan.core_register);
}

}  // namespace

int vector_number(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_XMM0 && reg <= ZYDIS_REGISTER_XMM31) return reg - ZYDIS_REGISTER_XMM0;
    if (reg >= ZYDIS_REGISTER_YMM0 && reg <= ZYDIS_REGISTER_YMM31) return reg - ZYDIS_REGISTER_YMM0;
    if (reg >= ZYDIS_REGISTER_ZMM0 && reg <= ZYDIS_REGISTER_ZMM31) return reg - ZYDIS_REGISTER_ZMM0;
    return -1;
}

int gpr_number(ZydisRegister reg)
{
    const ZydisRegister whole =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15) return -1;
    return whole - ZYDIS_REGISTER_RAX;
}

Unit unit_of(const Decoded& decoded)
{
    bool vector = false, mask = false, mmx = false, x87 = false;
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
        const ZydisRegisterClass kind = ZydisRegisterGetClass(operand.reg.value);
        vector |= vector_number(operand.reg.value) >= 0;
        mask |= kind == ZYDIS_REGCLASS_MASK;
        mmx |= kind == ZYDIS_REGCLASS_MMX;
        x87 |= kind == ZYDIS_REGCLASS_X87;
    }
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    if (instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || mask) return Unit::avx512;
    if (instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        const bool general = instruction.meta.isa_set == ZYDIS_ISA_SET_BMI1 ||
                             instruction.meta.isa_set == ZYDIS_ISA_SET_BMI2;
        return general ? Unit::general_vex : Unit::avx;
    }
    if (vector) return Unit::sse;
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_CVTPS2PI: case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI: case ZYDIS_MNEMONIC_CVTTPD2PI:
        return Unit::sse;  // although with a memory operand they name no XMM register
    default:
        break;
    }
    if (mmx || instruction.mnemonic == ZYDIS_MNEMONIC_EMMS) return Unit::mmx;
    if (instruction.mnemonic == ZYDIS_MNEMONIC_FWAIT) return Unit::wait;
    if (x87 || instruction.meta.isa_ext == ZYDIS_ISA_EXT_X87 ||
        instruction.meta.isa_set == ZYDIS_ISA_SET_SSE3X87) {
        return Unit::x87;
    }
    return Unit::general;
}

std::string Plan::key() const
{
    std::string text(bytes.begin(), bytes.begin() + length);
    text.push_back(static_cast<char>(rsp_as));
    return text;
}

std::optional<Plan> make_plan(const Decoded& decoded)
{
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    Plan plan;
    plan.unit = unit_of(decoded);
    const bool legacy = instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    plan.vector_encoded = !legacy && plan.unit != Unit::general_vex;
    bool floats = reports_exceptions(instruction);
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        switch (operand.type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (!add_register(plan, operand, legacy)) return std::nullopt;
            floats |= is_float(operand);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (!add_memory(plan, decoded, operand)) return std::nullopt;
            floats |= is_float(operand);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (operand.imm.is_relative) return std::nullopt;
            break;
        default:
            return std::nullopt;
        }
    }
    const bool x87_unit = plan.unit == Unit::x87 || plan.unit == Unit::mmx || plan.unit == Unit::wait;
    plan.x87 |= x87_unit;
    plan.waits = plan.x87 && x87_waits(instruction.mnemonic);
    plan.mxcsr |= floats && computes(instruction) && plan.unit != Unit::x87;
    if (!choose_registers(plan)) return std::nullopt;
    if (!rewrite(decoded, plan)) return std::nullopt;
    return plan;
}

}  // namespace doppel::engine::interpret::thunk
