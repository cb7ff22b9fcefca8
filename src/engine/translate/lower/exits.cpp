// Ways out of a block.
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

void Lowering::stub(std::uint32_t site_index)
{
    result_.exits[site_index].stub = code_.size();
    code_.store_dword(context_offset::exit, first_site_ + site_index, Relocation::Kind::site);
    code_.jump(common_exit_);
}

// An exit that the hot part runs into.
void Lowering::leave(ExitKind kind, std::uint64_t target)
{
    const auto index = static_cast<std::uint32_t>(result_.exits.size());
    result_.exits.push_back({kind, source_.mode, target, 0, 0});
    stub(index);
}

// User code may be mapped otherwise in the next page by the time a jump is taken: such a jump
// asks the address space's own table. Supervisor code is linked everywhere.
bool Lowering::linkable(std::uint64_t target) const
{
    return !user_ || ((target ^ source_.rip) >> 12) == 0;
}

void Lowering::link_later(std::uint32_t patch, std::uint64_t target, const Mode& mode)
{
    const auto index = static_cast<std::uint32_t>(result_.exits.size());
    result_.exits.push_back({ExitKind::direct, mode, target, patch, 0});
    cold_[cold_count_++] = {Cold::Kind::stub, patch, index, 0};
}

void Lowering::jump_to_cold(Cold::Kind kind, std::uint32_t patch, std::uint64_t value)
{
    cold_[cold_count_++] = {kind, patch, 0, value};
}

void Lowering::go_to(std::uint64_t target, const Mode& mode)
{
    if (linkable(target)) {
        link_later(code_.jump_later(), target, mode);
    } else if (!x86::canonical(target)) {
        leave(ExitKind::interpret, target);  // the block runs into it
    } else {
        far_jump(target);
    }
}

// As a table of targets without an entry does. RCX is in its slot.
void Lowering::leave_without_target()
{
    code_.load(rcx, Code::slot(1));
    code_.store_dword(context_offset::exit, exit_no_target);
    code_.jump(common_exit_);
}

// As an indirect branch; its table entry is known.
void Lowering::far_jump(std::uint64_t target)
{
    code_.save(rcx, Code::slot(1));
    if (source_.mode.code32) {
        code_.load_guest_address32(rcx, static_cast<std::uint32_t>(target));
        code_.save(rcx, context_offset::target);
    } else if (fits_signed_32(target)) {
        code_.store_qword(context_offset::target, target);
    } else {
        code_.load_guest_address(rcx, target);  // nothing behind it faults
        code_.save(rcx, context_offset::target);
    }
    if (source_.mode.alone) {
        leave_without_target();
        return;
    }
    code_.byte(0xff);
    code_.byte(0x25);
    code_.rip_operand(user_targets + (target & (target_count - 1)) * 8, 0,
                      Relocation::Kind::target);
}

}  // namespace doppel::engine::translate
