// Control flow.
#include <utility>

#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

namespace {

// RCX -= address of the page, as far as a difference of zero is concerned; no flag. Beyond 32
// bits with RORX.
void subtract_page(Code& code, std::uint64_t rip, bool code32)
{
    const auto [low, high] = page_constants(rip);
    const std::uint8_t swap_halves[] = {0xc4, 0xe3, 0xfb, 0xf0, 0xc9, 0x20};  // rorx rcx, rcx, 32
    if (code32) {
        code.byte(0x8d);  // lea ecx, [rcx + low]
        code.byte(0x89);
        code.dword(static_cast<std::uint32_t>(low));
        code.relocated_before(sizeof low, Relocation::Kind::page_low);
        return;
    }
    const auto add = [&code](std::int32_t value, Relocation::Kind kind) {
        constexpr std::uint32_t constant_size = 4;
        code.add_constant(rcx, rcx, value);
        code.relocated_before(constant_size, kind);
    };
    add(low, Relocation::Kind::page_low);
    if (high == 0) return;
    code.bytes(swap_halves, sizeof swap_halves);
    add(high, Relocation::Kind::page_high);
    code.bytes(swap_halves, sizeof swap_halves);
}

}  // namespace

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
        jump_to_cold(Cold::Kind::by_cell, patch, instruction.immediate);
    }
    if (instruction.goes_on) return true;
    point(instruction.offset + std::uint32_t{instruction.length});
    go_to(rip_behind(instruction), source_.mode);
    return true;
}

// LOOPNE, LOOPE, LOOP and JRCXZ themselves, over the way that is not taken.
bool Lowering::loop(const Instruction& instruction)
{
    if (source_.mode.code32) code_.byte(0x67);  // ECX
    code_.byte(instruction.opcode);
    code_.byte(0);
    const std::uint32_t patch = code_.size() - 1;
    point(instruction.offset + std::uint32_t{instruction.length});
    go_to(rip_behind(instruction), source_.mode);
    code_.patch_byte(patch, code_.size());
    go_to(instruction.immediate, source_.mode);
    return true;
}

// RCX is about to hold a branch's target.
void Lowering::save_target_register()
{
    if (learns_) {
        code_.save_briefly(rcx, Code::slot(1));
    } else {
        code_.save(rcx, Code::slot(1));
    }
}

// `target` holds it. RCX, which may be that, does not hold the guest's value since `rcx_from`,
// and is saved.
void Lowering::dispatch(std::uint32_t rcx_from, unsigned target)
{
    code_.save(target, context_offset::target);
    if (learns_) {
        if (target != rcx) code_.move(rcx, target);
        learning_jump(rcx_from);
        return;
    }
    code_.note_branch();
    code_.table_index(rcx, target);
    if (source_.mode.alone) {
        leave_without_target();
    } else if (!user_) {
        code_.byte(0xff);  // jmp [rcx*8 + targets]
        code_.byte(0x24);
        code_.byte(0xcd);
        code_.dword(static_cast<std::uint32_t>(supervisor_targets));
    } else if (source_.mode.gs_free) {
        code_.jump_through_gs(rcx);
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

// See learned_targets. RCX is displaced in all that emit_table_jump() may overwrite.
void Lowering::learning_jump(std::uint32_t rcx_from)
{
    const Mode& mode = source_.mode;
    const std::uint32_t first =
        add_exit({.kind = ExitKind::indirect, .mode = mode, .compare = code_.size()});
    subtract_page(code_, source_.rip, mode.code32);
    std::array<std::uint32_t, learned_targets> found;
    for (std::uint32_t& each : found) {
        code_.byte(0x48);  // lea rcx, [rcx - 1]: at first
        code_.byte(0x8d);
        code_.byte(0x89);
        code_.dword(~0u);
        add_exit({.kind = ExitKind::indirect, .mode = mode, .compare = code_.size() - 4});
        code_.byte(0xe3);  // jrcxz
        code_.byte(0);
        each = code_.size() - 1;
    }
    const std::uint32_t learn = code_.jump_later();
    for (unsigned i = 0; i < learned_targets; ++i) {
        code_.patch_byte(found[i], code_.size());
        code_.load_briefly(rcx, Code::slot(1));
        displaced(std::exchange(rcx_from, code_.size() + 6), rcx, Displaced::Where::slot, 1);
        Exit& exit = result_.exits[first + 1 + i];
        exit.patch = code_.jump_later();
        exit.cell = result_.cells++;
        code_.byte(0x90);  // room for a jump by the cell
        cold_[cold_count_++] = {Cold::Kind::stub, exit.patch, first + 1 + i, 0};
    }
    cold_[cold_count_++] = {Cold::Kind::learn, learn, first, 0};
}

static_assert(supervisor_targets + target_table_size < 0x80000000);

// For who finds that there is no such target, and has it undone.
void Lowering::note_stack_change(const Instruction& instruction)
{
    constexpr std::int32_t address_size = 8;
    if (instruction.kind == Kind::call_indirect) result_.branch_rsp = -address_size;
    if (instruction.kind != Kind::ret) return;
    result_.branch_rsp = address_size;
    if (instruction.opcode == 0xc2) {
        result_.branch_rsp += static_cast<std::int32_t>(instruction.immediate & 0xffff);
    }
}

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
    save_target_register();
    std::uint32_t rcx_from = code_.size();
    if (instruction.base == rip_register && rewrite.address == Rewrite::Address::same) {
        code_.load_guest_address(rcx, instruction.address);
        rcx_from = code_.size();
        rewrite.address = Rewrite::Address::based;
        rewrite.base = rcx;
        if (!copy(instruction, rewrite, code_)) return false;
    } else {
        if (!copy(instruction, rewrite, code_)) return false;
        rcx_from = code_.size();
    }
    if (instruction.kind == Kind::call_indirect && !push_return(instruction)) return false;
    note_stack_change(instruction);
    dispatch(rcx_from, rcx);
    return true;
}

bool Lowering::indirect_by_register(const Instruction& instruction)
{
    const unsigned from = instruction.modrm_rm();
    save_target_register();
    if (instruction.kind == Kind::call_indirect && !push_return(instruction)) return false;
    note_stack_change(instruction);
    dispatch(code_.size(), from);
    return true;
}

bool Lowering::ret(const Instruction& instruction)
{
    save_target_register();
    code_.byte(0x59);  // pop rcx
    const std::uint32_t rcx_from = code_.size();
    const auto released = static_cast<std::int32_t>(instruction.immediate & 0xffff);
    if (instruction.opcode == 0xc2 && released != 0) code_.add_constant(rsp, rsp, released);
    note_stack_change(instruction);
    dispatch(rcx_from, rcx);
    return true;
}

}  // namespace doppel::engine::translate
