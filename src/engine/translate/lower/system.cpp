// Privileged and processor-state instructions that need no exit.
#include "engine/translate/lower/lower.h"
#include "x86/registers.h"

namespace doppel::engine::translate {

// The host's PUSHFQ has the guest's status bits and DF, IF and bit 1 set and all else clear.
bool Lowering::push_flags(const Instruction& instruction)
{
    constexpr std::int32_t host_system_flags = 0x202;
    if (source_.mode.privileged || source_.mode.masked) return false;  // IF is not the host's
    if (!copy(instruction, {}, code_)) return false;
    if (user_) return true;
    code_.save(rax, Code::slot(0));
    code_.save(rcx, Code::slot(1));
    const std::uint8_t load_flags[] = {0x48, 0x8b, 0x04, 0x24};   // mov rax, [rsp]
    const std::uint8_t store_flags[] = {0x48, 0x89, 0x04, 0x24};  // mov [rsp], rax
    code_.bytes(load_flags, sizeof load_flags);
    const std::uint32_t rax_from = code_.size();
    code_.load(rcx, context_offset::system_flags);
    const std::uint32_t rcx_from = code_.size();
    code_.add_addresses(rax, rax, rcx, -host_system_flags);
    code_.bytes(store_flags, sizeof store_flags);
    code_.load(rax, Code::slot(0));
    displaced(rax_from, rax, Displaced::Where::slot, 0);
    code_.load(rcx, Code::slot(1));
    displaced(rcx_from, rcx, Displaced::Where::slot, 1);
    return true;
}

// What changes how code runs, and what the host's POPFQ would not do as the guest's, is the
// interpreter's, and so is an interrupt that waits for IF. What was looked at is popped from the context:
// on the guest's stack another processor could change it meanwhile. Guest flags stay as they are up to
// the POPFQ.
bool Lowering::pop_flags(const Instruction& instruction)
{
    using namespace x86::rflags;
    constexpr std::uint32_t unusual = TF | IOPL | NT | RF | VM | AC | VIF | VIP;
    constexpr std::uint8_t mov_rcx_top[] = {0x48, 0x8b, 0x0c, 0x24};           // mov rcx, [rsp]
    constexpr std::uint8_t pext_rcx_rcx_rax[] = {0xc4, 0xe2, 0xf2, 0xf5, 0xc8};
    constexpr std::uint8_t pext_rax_rcx_rax[] = {0xc4, 0xe2, 0xf2, 0xf5, 0xc0};
    constexpr std::uint8_t double_rax[] = {0x48, 0x8d, 0x04, 0x00};            // lea rax, [rax + rax]
    constexpr std::uint8_t lea_rsp_context[] = {0x48, 0x8d, 0x25};
    constexpr unsigned value_slot = 3, rsp_slot = 4;
    if (source_.mode.privileged) return false;
    restore_unread();
    code_.save(rax, Code::slot(0));
    code_.save(rcx, Code::slot(1));
    code_.bytes(mov_rcx_top, sizeof mov_rcx_top);
    const std::uint32_t from = code_.size();
    code_.save(rcx, Code::slot(value_slot));
    code_.load_immediate(rax, unusual);
    code_.bytes(pext_rcx_rcx_rax, sizeof pext_rcx_rcx_rax);
    interpret_unless_rcx_is_zero(rip_of(instruction), true);
    if (!user_) {
        code_.load(rcx, Code::slot(value_slot));
        code_.load_immediate(rax, IF);
        code_.bytes(pext_rax_rcx_rax, sizeof pext_rax_rcx_rax);
        code_.load_low(rcx, context_offset::pending);
        code_.bytes(pext_rcx_rcx_rax, sizeof pext_rcx_rcx_rax);
        interpret_unless_rcx_is_zero(rip_of(instruction), true);
    }
    code_.save(rsp, Code::slot(rsp_slot));
    code_.bytes(lea_rsp_context, sizeof lea_rsp_context);
    code_.context_operand(Code::slot(value_slot), 0);
    code_.byte(0x9d);  // popfq
    code_.load(rsp, Code::slot(rsp_slot));
    code_.add_constant(rsp, rsp, 8);
    if (!user_) {
        code_.bytes(double_rax, sizeof double_rax);
        code_.save_low_byte_of_rax(context_offset::system_flags + 1);
    }
    code_.load(rax, Code::slot(0));
    displaced(from, rax, Displaced::Where::slot, 0);
    code_.load(rcx, Code::slot(1));
    displaced(from, rcx, Displaced::Where::slot, 1);
    return true;
}

void Lowering::read_tsc()
{
    const std::uint8_t join[] = {
        0x0f, 0x31,                          // rdtsc
        0xc4, 0xe3, 0xfb, 0xf0, 0xd2, 0x20,  // rorx rdx, rdx, 32
        0x48, 0x8d, 0x04, 0x10,              // lea rax, [rax + rdx]
    };
    const std::uint8_t split[] = {
        0x48, 0x8d, 0x04, 0x10,              // lea rax, [rax + rdx]
        0xc4, 0xe3, 0xfb, 0xf0, 0xd0, 0x20,  // rorx rdx, rax, 32
        0x89, 0xd2,                          // mov edx, edx
        0x89, 0xc0,                          // mov eax, eax
    };
    code_.bytes(join, sizeof join);
    code_.load(rdx, context_offset::tsc_offset);
    code_.bytes(split, sizeof split);
}

// The other base is taken by FS of the host as fs_base is. Where the host cannot take it the
// interpreter does the instruction.
void Lowering::swap_gs(const Instruction& instruction)
{
    constexpr std::uint8_t jrcxz_over_jump[] = {0xe3, 0x02, 0xeb, 0x00};
    constexpr std::uint8_t wrfsbase_rcx[] = {0xf3, 0x48, 0x0f, 0xae, 0xd1};
    code_.save(rcx, Code::slot(1));
    code_.load(rcx, context_offset::other_fs_base);
    const std::uint32_t rcx_from = code_.size();
    code_.bytes(jrcxz_over_jump, sizeof jrcxz_over_jump);
    const std::uint32_t patch = code_.size() - 1;
    code_.load(rcx, Code::slot(1));
    const std::uint32_t jump = code_.jump_later();
    const std::uint32_t index = add_exit(
        {.kind = ExitKind::swapgs, .mode = source_.mode, .target = rip_of(instruction)});
    cold_[cold_count_++] = {Cold::Kind::stub, jump, index, 0};
    code_.patch_byte(patch, code_.size());

    code_.save(rax, Code::slot(0));
    code_.load(rax, context_offset::fs_base);
    const std::uint32_t rax_from = code_.size();
    // In this order: entered again in the middle, fs_base is what FS.base becomes.
    code_.save(rcx, context_offset::fs_base);
    code_.bytes(wrfsbase_rcx, sizeof wrfsbase_rcx);
    code_.save(rax, context_offset::other_fs_base);
    code_.load(rax, Code::slot(0));
    displaced(rax_from, rax, Displaced::Where::slot, 0);
    code_.load(rcx, Code::slot(1));
    displaced(rcx_from, rcx, Displaced::Where::slot, 1);
}

bool Lowering::read_selector(const Instruction& instruction)
{
    if (instruction.modrm_rm() == rsp) return false;
    const int index = static_cast<int>(instruction.modrm_reg() & 7);
    if (index > x86::GS) return false;
    if (instruction.operand_width == 16) code_.byte(0x66);  // the rest of it stays
    code_.load_dword(instruction.modrm_rm(), context_offset::selectors + 4 * index);
    return true;
}

// The host's FS.base is the guest's GS.base, folded.
bool Lowering::read_gs_base(const Instruction& instruction)
{
    const unsigned to = instruction.modrm_rm();
    if (to == rsp) return false;
    Borrowed borrowed = borrow(1u << to, 0);
    code_.load_immediate(borrowed.reg, 0 - fold);
    borrowed_changes(borrowed);
    code_.load(to, context_offset::fs_base);
    code_.add_addresses(to, to, borrowed.reg);
    give_back(borrowed);
    return true;
}

// WRFSBASE of a lower-half address, and WRGSBASE of one that the host can take; all others are the
// interpreter's.
bool Lowering::write_base(const Instruction& instruction)
{
    constexpr std::uint8_t shrx_rcx_rax_rcx[] = {0xc4, 0xe2, 0xf3, 0xf7, 0xc8};
    constexpr std::uint8_t wrfsbase_rax[] = {0xf3, 0x48, 0x0f, 0xae, 0xd0};
    constexpr unsigned lower_half_bits = 47;
    const unsigned from = instruction.modrm_rm();
    if (from == rsp) return false;
    const bool gs = instruction.kind == Kind::write_gs_base;
    code_.save(rax, Code::slot(0));
    code_.save(rcx, Code::slot(1));
    const std::uint32_t changed_from = code_.size();
    if (from != rax) code_.move(rax, from);
    if (gs) {
        code_.load_immediate(rcx, fold);
        code_.add_addresses(rax, rax, rcx);
    }
    code_.load_immediate(rcx, lower_half_bits);
    code_.bytes(shrx_rcx_rax_rcx, sizeof shrx_rcx_rax_rcx);
    interpret_unless_rcx_is_zero(rip_of(instruction), true);
    if (gs) {
        // In this order: entered again in the middle, fs_base is what FS.base becomes.
        code_.save(rax, context_offset::fs_base);
        code_.bytes(wrfsbase_rax, sizeof wrfsbase_rax);
    } else {
        code_.save(rax, context_offset::guest_fs_base);
    }
    code_.load(rax, Code::slot(0));
    displaced(changed_from, rax, Displaced::Where::slot, 0);
    code_.load(rcx, Code::slot(1));
    displaced(changed_from, rcx, Displaced::Where::slot, 1);
    return true;
}

// Leaves to have the instruction at `target` interpreted unless RCX is zero. RCX is the guest's
// again then, and so is RAX where it is in its slot.
void Lowering::interpret_unless_rcx_is_zero(std::uint64_t target, bool rax_too)
{
    code_.byte(0xe3);  // jrcxz
    code_.byte(0);
    const std::uint32_t patch = code_.size() - 1;
    code_.load(rcx, Code::slot(1));
    if (rax_too) code_.load(rax, Code::slot(0));
    const std::uint32_t jump = code_.jump_later();
    const std::uint32_t index =
        add_exit({.kind = ExitKind::interpret, .mode = source_.mode, .target = target});
    cold_[cold_count_++] = {Cold::Kind::stub, jump, index, 0};
    code_.patch_byte(patch, code_.size());
}

// Leaves to have the instruction at `target` interpreted when an interrupt waits; flags and
// registers as they are.
void Lowering::check_pending(std::uint64_t target)
{
    code_.save(rcx, Code::slot(1));
    code_.load_low(rcx, context_offset::pending);
    const std::uint32_t from = code_.size();
    interpret_unless_rcx_is_zero(target, false);
    code_.load(rcx, Code::slot(1));
    displaced(from, rcx, Displaced::Where::slot, 1);
}

}  // namespace doppel::engine::translate
