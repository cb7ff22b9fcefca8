// Control flow.
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

bool Lowering::push_return(const Instruction& instruction)
{
    const std::uint64_t address = rip_behind(instruction);
    if (fits_signed_32(address)) {
        code_.byte(0x68);
        code_.dword(static_cast<std::uint32_t>(address));
        return true;
    }
    code_.byte(0xff);  // push [rip + literal]
    code_.byte(0x35);
    code_.dword(0);
    jump_to_cold(Cold::Kind::literal, code_.size() - 4, address);
    return true;
}

bool Lowering::conditional(const Instruction& instruction)
{
    code_.byte(0x0f);
    code_.byte(0x80 | (instruction.opcode & 15u));
    code_.dword(0);
    const std::uint32_t patch = code_.size() - 4;
    if (linkable(instruction.immediate)) {
        link_later(patch, instruction.immediate, source_.mode);
    } else {
        jump_to_cold(Cold::Kind::far_jump, patch, instruction.immediate);
    }
    if (instruction.goes_on) return true;
    point(instruction.offset + std::uint32_t{instruction.length});
    go_to(rip_behind(instruction), source_.mode);
    return true;
}

// LOOPNE, LOOPE, LOOP and JRCXZ themselves, over the way that is not taken.
bool Lowering::loop(const Instruction& instruction)
{
    code_.byte(instruction.opcode);
    code_.byte(0);
    const std::uint32_t patch = code_.size() - 1;
    point(instruction.offset + std::uint32_t{instruction.length});
    go_to(rip_behind(instruction), source_.mode);
    code_.patch_byte(patch, code_.size());
    go_to(instruction.immediate, source_.mode);
    return true;
}

// ExecContext::target is stored, the target's low 16 bits are in RCX, which does not hold the
// guest's value since `rcx_from` and is saved.
void Lowering::dispatch(std::uint32_t rcx_from)
{
    if (!user_) {
        code_.byte(0xff);  // jmp [rcx*8 + targets]
        code_.byte(0x24);
        code_.byte(0xcd);
        code_.dword(static_cast<std::uint32_t>(supervisor_targets));
    } else if (source_.mode.gs_free) {
        code_.byte(0x65);  // jmp gs:[rcx*8]
        code_.byte(0xff);
        code_.byte(0x24);
        code_.byte(0xcd);
        code_.dword(0);
    } else {
        code_.save(rax, Code::slot(0));
        code_.byte(0x48);  // lea rax, [rip + targets]
        code_.byte(0x8d);
        code_.byte(0x05);
        code_.rip_operand(user_targets, 0);
        const std::uint32_t rax_from = code_.size();
        code_.byte(0x48);  // mov rcx, [rax + rcx*8]
        code_.byte(0x8b);
        code_.byte(0x0c);
        code_.byte(0xc8);
        code_.load(rax, Code::slot(0));
        displaced(rax_from, rax, Displaced::Where::slot, 0);
        code_.byte(0xff);  // jmp rcx
        code_.byte(0xe1);
    }
    displaced(rcx_from, rcx, Displaced::Where::slot, 1);
}
static_assert(supervisor_targets + target_table_size < 0x80000000);

bool Lowering::indirect(const Instruction& instruction)
{
    if (!instruction.memory && !instruction.rsp_operand) return indirect_by_register(instruction);
    Rewrite rewrite;
    rewrite.load_into = rcx;
    if (instruction.memory) {
        if (!place_operand(instruction, rewrite)) return false;
    } else if (!user_) {
        return false;
    }
    code_.save(rcx, Code::slot(1));
    std::uint32_t rcx_from = code_.size();
    if (instruction.base == rip_register && rewrite.address == Rewrite::Address::same) {
        code_.load_immediate(rcx, instruction.address);
        rcx_from = code_.size();
        rewrite.address = Rewrite::Address::based;
        rewrite.base = rcx;
        if (!copy(instruction, rewrite, code_)) return false;
    } else {
        if (!copy(instruction, rewrite, code_)) return false;
        rcx_from = code_.size();
    }
    if (instruction.kind == Kind::call_indirect && !push_return(instruction)) return false;
    code_.save(rcx, context_offset::target);
    code_.low_word(rcx, rcx);
    dispatch(rcx_from);
    return true;
}

bool Lowering::indirect_by_register(const Instruction& instruction)
{
    const unsigned from = instruction.modrm_rm();
    code_.save(rcx, Code::slot(1));
    code_.save(from, context_offset::target);
    if (instruction.kind == Kind::call_indirect && !push_return(instruction)) return false;
    code_.low_word(rcx, from);
    dispatch(code_.size());
    return true;
}

bool Lowering::ret(const Instruction& instruction)
{
    code_.save(rcx, Code::slot(1));
    code_.byte(0x59);  // pop rcx
    const std::uint32_t rcx_from = code_.size();
    code_.save(rcx, context_offset::target);
    const auto released = static_cast<std::int32_t>(instruction.immediate & 0xffff);
    if (instruction.opcode == 0xc2 && released != 0) code_.add_constant(rsp, rsp, released);
    code_.low_word(rcx, rcx);
    dispatch(rcx_from);
    return true;
}

}  // namespace doppel::engine::translate
