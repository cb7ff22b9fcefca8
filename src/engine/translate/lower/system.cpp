// Privileged and processor-state instructions that need no exit.
#include "engine/translate/lower/lower.h"

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
    const auto index = static_cast<std::uint32_t>(result_.exits.size());
    result_.exits.push_back({ExitKind::swapgs, source_.mode, rip_of(instruction), 0, 0});
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

// Leaves to have the instruction at `target` interpreted when an interrupt waits; flags and
// registers as they are.
void Lowering::check_pending(std::uint64_t target)
{
    code_.save(rcx, Code::slot(1));
    code_.load_low(rcx, context_offset::pending);
    const std::uint32_t from = code_.size();
    code_.byte(0xe3);  // jrcxz
    code_.byte(0);
    const std::uint32_t patch = code_.size() - 1;
    code_.load(rcx, Code::slot(1));
    const std::uint32_t jump = code_.jump_later();
    const auto index = static_cast<std::uint32_t>(result_.exits.size());
    result_.exits.push_back({ExitKind::interpret, source_.mode, target, 0, 0});
    cold_[cold_count_++] = {Cold::Kind::stub, jump, index, 0};
    code_.patch_byte(patch, code_.size());
    code_.load(rcx, Code::slot(1));
    displaced(from, rcx, Displaced::Where::slot, 1);
}

}  // namespace doppel::engine::translate
