#include "engine/translate/block/recover.h"

#include <bit>

#include "engine/translate/layout.h"
#include "x86/cpu_state.h"

namespace doppel::engine::translate {

namespace {

namespace rflags = x86::rflags;

// Of a 64-bit ADD, SUB or AND with this result. `carries`: out of each bit, or borrows into it.
std::uint64_t status_flags(std::uint64_t result, std::uint64_t carries)
{
    const bool sign_carries = (((carries >> 63) ^ (carries >> 62)) & 1) != 0;
    std::uint64_t flags = 0;
    if ((carries >> 63) != 0) flags |= rflags::CF;
    if ((std::popcount(result & 0xff) & 1) == 0) flags |= rflags::PF;
    if ((carries >> 3 & 1) != 0) flags |= rflags::AF;
    if (result == 0) flags |= rflags::ZF;
    if ((result >> 63) != 0) flags |= rflags::SF;
    if (sign_carries) flags |= rflags::OF;
    return flags;
}

std::uint64_t flags_of(const Displaced& displaced, std::uint64_t result)
{
    const auto operand = static_cast<std::uint64_t>(std::int64_t{displaced.operand});
    if (displaced.where == Displaced::Where::flags_of_add) {
        const std::uint64_t before = result - operand;
        return status_flags(result, (before & operand) | ((before | operand) & ~result));
    }
    if (displaced.where == Displaced::Where::flags_of_sub) {
        const std::uint64_t before = result + operand;
        return status_flags(result, (~before & operand) | ((~before | operand) & result));
    }
    return status_flags(result, 0);
}

}  // namespace

void recover(std::span<const Displaced> displaced, std::uint32_t offset, ExecContext& registers)
{
    for (const Displaced& each : displaced) {
        if (offset < each.from || offset >= each.to) continue;
        switch (each.where) {
        case Displaced::Where::slot:
            registers.gpr[each.reg & 15] = registers.slot[each.slot & 7];
            break;
        case Displaced::Where::folded:
            registers.gpr[each.reg & 15] -= fold;
            break;
        case Displaced::Where::moved:
            registers.gpr[each.reg & 15] += static_cast<std::uint64_t>(std::int64_t{each.operand});
            break;
        case Displaced::Where::flags_of_add:
        case Displaced::Where::flags_of_sub:
        case Displaced::Where::flags_of_and:
            registers.flags = (registers.flags & ~rflags::STATUS) |
                              flags_of(each, registers.gpr[x86::RSP] - fold);
            break;
        }
    }
}

}  // namespace doppel::engine::translate
