// RSP as an operand in supervisor code, where it holds the guest's value plus `fold`.
#include "engine/translate/lower/liveness.h"
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

namespace {

constexpr std::uint64_t unfold = 0 - fold;
// `fold` has no bits below: masking them off works on the folded value too.
constexpr std::uint64_t fold_alignment = fold & unfold;

bool is_immediate_arithmetic(const Instruction& instruction)
{
    return instruction.opcode == 0x81 || instruction.opcode == 0x83;
}

}  // namespace

bool Lowering::stack_pointer(std::span<const Instruction> rest)
{
    const Instruction& instruction = rest.front();
    const bool register_form = !instruction.memory && instruction.operand_width == 64;
    switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return false;
    case ZYDIS_MNEMONIC_POP:
        return instruction.operand_width == 64 && instruction.opcode == 0x5c && pop_stack_pointer();
    case ZYDIS_MNEMONIC_MOV: {
        if (instruction.memory || instruction.operand_width < 32) break;
        if (instruction.opcode == 0xc7 || (instruction.opcode & 0xf8) == 0xb8) {
            const std::uint64_t mask = instruction.operand_width == 64 ? ~0ull : 0xffffffffull;
            code_.load_immediate(rsp, (instruction.immediate & mask) + fold);
            return true;
        }
        if (!register_form) break;
        if (instruction.opcode != 0x89 && instruction.opcode != 0x8b) break;
        const bool to_rm = instruction.opcode == 0x89;
        const unsigned to = to_rm ? instruction.modrm_rm() : instruction.modrm_reg();
        const unsigned from = to_rm ? instruction.modrm_reg() : instruction.modrm_rm();
        if (to == from) return true;
        if (to == rsp) {
            code_.load_immediate(rsp, fold);
            code_.add_addresses(rsp, rsp, from);
        } else {
            code_.load_immediate(to, unfold);
            code_.add_addresses(to, rsp, to);
        }
        return true;
    }
    case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_SUB: {
        if (!register_form || !instruction.rsp_in_rm || instruction.rsp_in_reg) break;
        if (!is_immediate_arithmetic(instruction)) break;
        if (!flags_are_dead(rest)) return adjust_with_flags(instruction);
        return without_flags(instruction, instruction.mnemonic == ZYDIS_MNEMONIC_ADD
                                              ? Displaced::Where::flags_of_add
                                              : Displaced::Where::flags_of_sub);
    }
    case ZYDIS_MNEMONIC_AND:
        if (register_form && instruction.rsp_in_rm && is_immediate_arithmetic(instruction) &&
            instruction.immediate >= 0 - fold_alignment && flags_are_dead(rest)) {
            return without_flags(instruction, Displaced::Where::flags_of_and);
        }
        break;
    default:
        break;
    }
    return renamed_stack_pointer(instruction);
}

// The instruction as it is: its flags are those of a folded value, and nobody reads them.
bool Lowering::without_flags(const Instruction& instruction, Displaced::Where where)
{
    if (!copy(instruction, {}, code_)) return false;
    if (unread_.flags.from != 0) {
        unread_.flags.to = code_.size();
        result_.displaced.push_back(unread_.flags);
    }
    unread_.flags = {code_.size(), 0, 0, where, 0, static_cast<std::int32_t>(instruction.immediate)};
    return true;
}

// Does the ADD, SUB or AND again, on the guest's value.
void Lowering::restore_flags()
{
    const auto operand = std::int64_t{unread_.flags.operand};
    const bool add = unread_.flags.where == Displaced::Where::flags_of_add;
    const bool mask = unread_.flags.where == Displaced::Where::flags_of_and;
    const std::int64_t before = mask ? 0 : add ? -operand : operand;
    Borrowed borrowed = borrow(0, 0);
    code_.load_immediate(borrowed.reg, unfold + static_cast<std::uint64_t>(before));
    borrowed_changes(borrowed);
    code_.add_addresses(borrowed.reg, rsp, borrowed.reg);
    code_.byte(0x48);
    code_.byte(0x81);
    code_.byte((mask ? 0xe0u : add ? 0xc0u : 0xe8u) | borrowed.reg);
    code_.dword(static_cast<std::uint32_t>(operand));
    give_back(borrowed);
    unread_.flags.to = code_.size();
    result_.displaced.push_back(unread_.flags);
    unread_.flags = {};
}

// add or sub rsp, imm: the flags come from the guest's value, RSP itself from LEA.
bool Lowering::adjust_with_flags(const Instruction& instruction)
{
    const auto value = static_cast<std::int64_t>(instruction.immediate);
    const std::int64_t change = instruction.mnemonic == ZYDIS_MNEMONIC_ADD ? value : -value;
    if (change > INT32_MAX) return renamed_stack_pointer(instruction);
    Borrowed borrowed = borrow(0, 0);
    code_.load_immediate(borrowed.reg, unfold);
    borrowed_changes(borrowed);
    code_.add_addresses(borrowed.reg, rsp, borrowed.reg);
    Rewrite rewrite;
    rewrite.rsp_as = borrowed.reg;
    if (!copy(instruction, rewrite, code_)) return false;
    code_.add_constant(rsp, rsp, static_cast<std::int32_t>(change));
    give_back(borrowed);
    return true;
}

// The instruction works on another register, which takes the guest's value before and gives
// it back after.
bool Lowering::renamed_stack_pointer(const Instruction& instruction)
{
    if (instruction.rsp_elsewhere || instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        return false;
    }
    Rewrite rewrite;
    if (instruction.memory && !place_operand(instruction, rewrite)) return false;
    if (instruction.base == rip_register && rewrite.address == Rewrite::Address::same) return false;
    Borrowed borrowed = borrow(unsigned{instruction.reads} | instruction.overwrites, 0);
    if (borrowed.reg == no_register) return false;
    rewrite.rsp_as = borrowed.reg;
    borrowed_changes(borrowed);
    if (instruction.rsp_read) {
        code_.load_immediate(borrowed.reg, unfold);
        borrowed_changes(borrowed);
        code_.add_addresses(borrowed.reg, rsp, borrowed.reg);
    }
    if (!copy(instruction, rewrite, code_)) return false;
    if (!instruction.rsp_read) borrowed_changes(borrowed);
    if (instruction.rsp_written) {
        code_.load_immediate(rsp, fold);
        code_.add_addresses(rsp, rsp, borrowed.reg);
    }
    give_back(borrowed);
    return true;
}

// LEA to RSP, from RSP, or both.
bool Lowering::lea_stack_pointer(const Instruction& instruction)
{
    if (instruction.operand_width != 64) return false;
    const unsigned to = instruction.modrm_reg();
    const bool from_rsp = instruction.base == rsp;
    if (instruction.base == rip_register) {
        code_.load_immediate(rsp, instruction.address + fold);
        return true;
    }
    if (to == rsp && from_rsp) return copy(instruction, {}, code_);
    const auto displacement = static_cast<std::int32_t>(instruction.displacement);
    if (to != rsp && instruction.index == no_register) {
        code_.load_immediate(to, unfold);
        code_.add_addresses(to, rsp, to, displacement);
        return true;
    }
    if (to == rsp && instruction.index == no_register && instruction.base != no_register) {
        code_.load_immediate(rsp, fold);
        code_.add_addresses(rsp, rsp, instruction.base, displacement);
        return true;
    }
    if (!copy(instruction, {}, code_)) return false;
    Borrowed borrowed = borrow(1u << to, 0);
    code_.load_immediate(borrowed.reg, to == rsp ? fold : unfold);
    borrowed_changes(borrowed);
    code_.add_addresses(to, to, borrowed.reg);
    give_back(borrowed);
    return true;
}

bool Lowering::pop_stack_pointer()
{
    Borrowed borrowed = borrow(0, 0);
    code_.load_immediate(borrowed.reg, fold);
    borrowed_changes(borrowed);
    constexpr std::uint8_t load_rsp[] = {0x48, 0x8b, 0x24, 0x24};  // mov rsp, [rsp]
    code_.bytes(load_rsp, sizeof load_rsp);
    code_.add_addresses(rsp, rsp, borrowed.reg);
    give_back(borrowed);
    return true;
}

// mov rsp, rbp; pop rbp: the load first, since it may fault.
bool Lowering::leave_frame(const Instruction& instruction)
{
    if (user_) return copy(instruction, {}, code_);
    Borrowed borrowed = borrow(0, 0);
    constexpr std::uint8_t load_rdx[] = {0x65, 0x48, 0x8b, 0x55, 0x00};  // mov rdx, gs:[rbp]
    code_.bytes(load_rdx, sizeof load_rdx);
    borrowed_changes(borrowed);
    code_.load_immediate(rsp, fold);
    code_.add_addresses(rsp, rsp, rbp, 8);
    code_.move(rbp, borrowed.reg);
    give_back(borrowed);
    return true;
}

}  // namespace doppel::engine::translate
