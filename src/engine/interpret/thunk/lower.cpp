#include <algorithm>
#include <optional>
#include <string>

#include "engine/interpret/thunk/allow_list.h"
#include "engine/interpret/thunk/plan.h"
#include "engine/interpret/thunk/routine.h"
#include "engine/interpret/thunk/run.h"
#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret {

using namespace thunk;

namespace {

bool ensure_cache(Core& core)
{
    if (core.thunks != nullptr) return true;
    auto made = ThunkCache::create();
    if (!made) return false;
    core.thunks = std::move(made).value().release();
    return true;
}

std::uint64_t components_of(const Plan& plan)
{
    using namespace x86;
    std::uint64_t components = plan.x87 ? xcr0::X87 : 0;
    for (unsigned reg = 0; reg < 32; ++reg) {
        const bool written = (plan.vector_written & (1u << reg)) != 0;
        if (plan.vector_width[reg] == 0 && !written) continue;
        if (reg >= 16) {
            components |= xcr0::HI16_ZMM;
            continue;
        }
        components |= xcr0::SSE;
        if (plan.vector_encoded) components |= xcr0::AVX;
        // Written: the instruction may be a 512-bit one.
        if (plan.vector_width[reg] > 32 || (written && plan.unit == Unit::avx512)) {
            components |= xcr0::ZMM_HI256;
        }
    }
    if (plan.mask_used != 0) components |= xcr0::OPMASK;
    return components;
}

Thunk* native_thunk(const Plan& plan, Core& core)
{
    const std::string key = plan.key();
    if (Thunk* known = core.thunks->find(key)) return known;
    Assembler code;
    const std::size_t fault_exit = assemble(plan, core, host_has_avx512(), code);
    Thunk* made = core.thunks->add(key, code.code(), fault_exit);
    made->needs = requirements(plan.unit);
    made->needs.components = components_of(plan);
    made->needs.pending_x87 = plan.waits;
    if (plan.unit == Unit::sse && plan.x87) made->needs.pending_x87 = true;
    made->memory = plan.memory;
    made->saves_x87 = plan.x87;
    return made;
}

// VSIB operands.
bool fill_gather(const Decoded& decoded, Gather& gather)
{
    const ZydisDecodedInstruction& instruction = decoded.instruction;
    const bool evex = instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    gather.opmask = evex;
    const ZydisDecodedOperand* vector = nullptr;
    for (unsigned i = 0; i < instruction.operand_count_visible; ++i) {
        const ZydisDecodedOperand& operand = decoded.operands[i];
        if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (operand.mem.type != ZYDIS_MEMOP_TYPE_VSIB) return false;
            gather.scatter = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
            gather.index = static_cast<std::uint8_t>(vector_number(operand.mem.index));
            gather.scale = operand.mem.scale == 0 ? 1 : operand.mem.scale;
        } else if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
            const int number = vector_number(operand.reg.value);
            if (number < 0) {
                gather.mask = static_cast<std::uint8_t>(operand.reg.value - ZYDIS_REGISTER_K0);
            } else if (vector == nullptr) {
                vector = &operand;
                gather.vector = static_cast<std::uint8_t>(number);
            } else {
                gather.mask = static_cast<std::uint8_t>(number);
            }
        }
    }
    if (vector == nullptr) return false;
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPS: case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VSCATTERDPS: case ZYDIS_MNEMONIC_VPSCATTERDD:
        gather.index_size = 4;
        gather.element_size = 4;
        break;
    case ZYDIS_MNEMONIC_VGATHERDPD: case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPD: case ZYDIS_MNEMONIC_VPSCATTERDQ:
        gather.index_size = 4;
        gather.element_size = 8;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPS: case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VSCATTERQPS: case ZYDIS_MNEMONIC_VPSCATTERQD:
        gather.index_size = 8;
        gather.element_size = 4;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPD: case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPD: case ZYDIS_MNEMONIC_VPSCATTERQQ:
        gather.index_size = 8;
        gather.element_size = 8;
        break;
    default:
        return false;
    }
    // Both vectors have one element per index, and one of them may be half empty.
    gather.elements = static_cast<std::uint8_t>(
        instruction.avx.vector_length / 8u / std::max(gather.index_size, gather.element_size));
    return gather.elements != 0;
}

bool is_gather(const Decoded& decoded)
{
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
            return true;
        }
    }
    return false;
}

bool lower_gather(const Decoded& decoded, Op& op, Core& core)
{
    using namespace x86;
    Gather gather;
    if (!fill_gather(decoded, gather)) return false;
    std::string key = "gather";
    for (const unsigned part : {unsigned{gather.scatter}, unsigned{gather.opmask},
                                unsigned{gather.vector}, unsigned{gather.index},
                                unsigned{gather.mask}, unsigned{gather.elements},
                                unsigned{gather.element_size}, unsigned{gather.index_size},
                                unsigned{gather.scale}}) {
        key.push_back(static_cast<char>(part));
    }
    Thunk* thunk = core.thunks->find(key);
    if (thunk == nullptr) {
        thunk = core.thunks->add(key, {}, 0);
        thunk->gather = gather;
        thunk->needs = requirements(gather.opmask ? Unit::avx512 : Unit::avx);
        thunk->needs.components = xcr0::SSE | xcr0::AVX;
        if (gather.opmask) thunk->needs.components = xcr0::SUPPORTED & ~xcr0::X87;
    }
    op.run = run_gather;
    op.data = thunk;
    op.immediate = thunk->id;
    op.index = reg_none;  // the index is a vector; base and displacement stay
    return true;
}

bool lower_native(const Decoded& decoded, Op& op, Core& core)
{
    const std::optional<Plan> plan = make_plan(decoded);
    if (!plan) return false;
    Thunk* thunk = native_thunk(*plan, core);
    op.run = plan->memory.size == 0                    ? run_register
             : plan->memory.masking != Masking::none ? run_masked
                                                     : run_memory;
    op.data = thunk;
    op.immediate = thunk->id;
    if (plan->x87) {
        thunk->opcode = decoded.instruction.opcode & 7;
        op.extra = decoded.instruction.raw.modrm.offset != 0
                       ? decoded.bytes[decoded.instruction.raw.modrm.offset]
                       : std::uint8_t{0};
    }
    return true;
}

// Hints that touch nothing, offered or not: prefetches and CLDEMOTE.
bool is_hint(const ZydisDecodedInstruction& instruction)
{
    return instruction.meta.category == ZYDIS_CATEGORY_PREFETCH ||
           instruction.meta.isa_set == ZYDIS_ISA_SET_CLDEMOTE;
}

// Vector, MMX or general registers of the two ModRM fields, by number; wide: the
// instruction has REX.W or is a VEX form (op.extra bits 0 and 1).
void fill_registers(const Decoded& decoded, Op& op)
{
    unsigned found = 0;
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        // MASKMOVDQU's [rDI] is hidden; a segment override still applies to it.
        const bool implicit_memory = operand.type == ZYDIS_OPERAND_TYPE_MEMORY && !op.memory;
        if (implicit_memory && operand.mem.segment >= ZYDIS_REGISTER_ES) {
            op.segment = static_cast<std::uint8_t>(operand.mem.segment - ZYDIS_REGISTER_ES);
        }
        if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || found == 2) continue;
        int number = vector_number(operand.reg.value);
        if (ZydisRegisterGetClass(operand.reg.value) == ZYDIS_REGCLASS_MMX) {
            number = operand.reg.value - ZYDIS_REGISTER_MM0;
        } else if (number < 0) {
            number = gpr_number(operand.reg.value);
        }
        if (number < 0) continue;
        (found == 0 ? op.reg : op.rm) = static_cast<std::uint8_t>(number);
        ++found;
    }
    const bool wide = (decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_REX) != 0 &&
                      decoded.instruction.raw.rex.W != 0;
    const bool vex = decoded.instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    op.extra = static_cast<std::uint8_t>((wide ? extra_wide : 0u) | (vex ? extra_vex : 0u));
}

bool lower_by_hand(const Decoded& decoded, Op& op)
{
    const ZydisMnemonic mnemonic = decoded.instruction.mnemonic;
    Handler handler = handler_misc(mnemonic);
    if (handler == nullptr) handler = handler_fxsave(mnemonic);
    if (handler == nullptr) handler = handler_xsave(mnemonic);
    if (handler == nullptr) return false;
    op.run = handler;
    op.immediate = 0;
    fill_registers(decoded, op);
    return true;
}

}  // namespace

bool lower_thunk(const Decoded& decoded, Op& op, Core& core)
{
    if ((decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0) return false;
    if (is_hint(decoded.instruction)) {
        op.run = run_hint;
        return true;
    }
    switch (judge(decoded.instruction, core.cpuid)) {
    case Verdict::forbidden: return false;
    case Verdict::by_hand: return lower_by_hand(decoded, op);
    case Verdict::native: break;
    }
    if (!ensure_cache(core)) return false;
    return is_gather(decoded) ? lower_gather(decoded, op, core) : lower_native(decoded, op, core);
}

}  // namespace doppel::engine::interpret
