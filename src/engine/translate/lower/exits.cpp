// Ways out of a block.
#include "engine/translate/lower/lower.h"

namespace doppel::engine::translate {

void Lowering::stub(std::uint32_t site_index)
{
    result_.exits[site_index].stub = code_.size();
    code_.store_dword(context_offset::exit, first_.site + site_index, Relocation::Kind::site);
    code_.jump(common_exit_);
}

std::uint32_t Lowering::add_exit(const Exit& exit)
{
    result_.exits.push_back(exit);
    return static_cast<std::uint32_t>(result_.exits.size()) - 1;
}

// An exit that the hot part runs into.
void Lowering::leave(ExitKind kind, std::uint64_t target)
{
    stub(add_exit({.kind = kind, .mode = source_.mode, .target = target}));
}

// User code may be mapped otherwise in the next page by the time a jump is taken: such a jump
// asks the address space's own table. Supervisor code is linked everywhere, and what nobody links
// needs no cell.
bool Lowering::linkable(std::uint64_t target) const
{
    return !user_ || source_.mode.alone || ((target ^ source_.rip) >> 12) == 0;
}

void Lowering::link_later(std::uint32_t patch, std::uint64_t target, const Mode& mode)
{
    const std::uint32_t index =
        add_exit({.kind = ExitKind::direct, .mode = mode, .target = target, .patch = patch});
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
        jump_by_cell(target);
    }
}

// As a table of targets without an entry does. RCX is in its slot.
void Lowering::leave_without_target()
{
    code_.load(rcx, Code::slot(1));
    code_.store_dword(context_offset::exit, exit_no_target);
    code_.jump(common_exit_);
}

// The cell leads to the exit's stub at first.
void Lowering::jump_by_cell(std::uint64_t target)
{
    const std::uint32_t cell = result_.cells++;
    const std::uint32_t index = add_exit(
        {.kind = ExitKind::direct, .mode = source_.mode, .target = target, .cell = cell});
    code_.jump_by_cell(first_.cell + cell);
    cold_[cold_count_++] = {Cold::Kind::stub, 0, index, 0};
}

}  // namespace doppel::engine::translate
