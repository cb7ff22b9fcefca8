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

void Lowering::save_for_indirect()
{
    code_.save(rax, Code::slot(0));
    code_.save(rcx, Code::slot(1));
}

// RCX holds the target since `rcx_from`; RAX and RCX are saved.
void Lowering::dispatch(std::uint32_t rcx_from)
{
    displaced(rcx_from, rcx, Displaced::Where::slot, 1);
    code_.byte(0x0f);  // movzx eax, cx
    code_.byte(0xb7);
    code_.byte(0xc1);
    if (!user_) {
        code_.byte(0xff);  // jmp [rax*8 + targets]
        code_.byte(0x24);
        code_.byte(0xc5);
        code_.dword(static_cast<std::uint32_t>(supervisor_targets));
        return;
    }
    code_.save(rdx, Code::slot(2));
    code_.byte(0x48);  // lea rdx, [rip + targets]
    code_.byte(0x8d);
    code_.byte(0x15);
    code_.rip_operand(user_targets, 0);
    code_.byte(0x48);  // mov rax, [rdx + rax*8]
    code_.byte(0x8b);
    code_.byte(0x04);
    code_.byte(0xc2);
    code_.load(rdx, Code::slot(2));
    code_.byte(0xff);  // jmp rax
    code_.byte(0xe0);
}
static_assert(supervisor_targets + target_table_size < 0x80000000);

bool Lowering::indirect(const Instruction& instruction)
{
    Rewrite rewrite;
    rewrite.load_into = rcx;
    if (instruction.memory) {
        if (!place_operand(instruction, rewrite)) return false;
    } else if (!user_ && instruction.rsp_operand) {
        return false;
    }
    save_for_indirect();
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
    dispatch(rcx_from);
    return true;
}

bool Lowering::ret(const Instruction& instruction)
{
    save_for_indirect();
    code_.byte(0x59);  // pop rcx
    const std::uint32_t rcx_from = code_.size();
    const auto released = static_cast<std::int32_t>(instruction.immediate & 0xffff);
    if (instruction.opcode == 0xc2 && released != 0) code_.add_constant(rsp, rsp, released);
    dispatch(rcx_from);
    return true;
}

}  // namespace doppel::engine::translate
