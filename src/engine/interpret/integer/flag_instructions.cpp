// CLC STC CMC CLD STD LAHF SAHF SALC, BOUND, UD0-2, fences and cache lines.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

Flow clc(Core& core, const Op&) noexcept
{
    core.flags = static_cast<Flags>(core.flags & ~packed::CF);
    return Flow::next;
}

Flow stc(Core& core, const Op&) noexcept
{
    core.flags = static_cast<Flags>(core.flags | packed::CF);
    return Flow::next;
}

Flow cmc(Core& core, const Op&) noexcept
{
    core.flags = static_cast<Flags>(core.flags ^ packed::CF);
    return Flow::next;
}

Flow clear_direction(Core& core, const Op&) noexcept
{
    core.state.rflags &= ~x86::rflags::DF;
    return Flow::next;
}

Flow set_direction(Core& core, const Op&) noexcept
{
    core.state.rflags |= x86::rflags::DF;
    return Flow::next;
}

Flow lahf(Core& core, const Op&) noexcept
{
    set<std::uint8_t>(core, 16, static_cast<std::uint8_t>(core.flags >> 8));
    return Flow::next;
}

Flow sahf(Core& core, const Op&) noexcept
{
    constexpr unsigned fixed = 0x02, status = 0xd5;
    const unsigned image = (get<std::uint8_t>(core, 16) & status) | fixed;
    core.flags = static_cast<Flags>(image << 8 | (core.flags & packed::OF));
    return Flow::next;
}

Flow salc(Core& core, const Op&) noexcept
{
    set<std::uint8_t>(core, x86::RAX, (core.flags & packed::CF) != 0 ? 0xff : 0);
    return Flow::next;
}

template <typename T>
Flow bound(Core& core, const Op& op) noexcept
{
    using Signed = std::make_signed_t<T>;
    std::uint64_t linear = 0;
    T low, high;
    if (!core.operand_address(op, 2 * sizeof(T), false, linear) || !core.load(linear, low) ||
        !core.load((linear + sizeof(T)) & 0xffffffff, high)) {
        return core.pending_flow();
    }
    const auto index = static_cast<Signed>(get<T>(core, op.reg));
    if (index < static_cast<Signed>(low) || index > static_cast<Signed>(high)) {
        return core.raise(Vector::BR);
    }
    return Flow::next;
}

// Memory is coherent and ordered already: the host's ordering of this thread is the guest's.
Flow fence(Core&, const Op&) noexcept
{
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return Flow::next;
}

// Faults as a byte load would; the cache is the host's business.
Flow flush_line(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0;
    if (!core.operand_address(op, 1, false, linear) || !core.check_read(linear, 1)) {
        return core.pending_flow();
    }
    return Flow::next;
}

}  // namespace

Handler lower_flags(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_CLC: return clc;
    case ZYDIS_MNEMONIC_STC: return stc;
    case ZYDIS_MNEMONIC_CMC: return cmc;
    case ZYDIS_MNEMONIC_CLD: return clear_direction;
    case ZYDIS_MNEMONIC_STD: return set_direction;
    case ZYDIS_MNEMONIC_LAHF: return lahf;
    case ZYDIS_MNEMONIC_SAHF: return sahf;
    case ZYDIS_MNEMONIC_SALC: return salc;
    case ZYDIS_MNEMONIC_BOUND: return op.operand_size == 2 ? bound<std::uint16_t> : bound<std::uint32_t>;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return raise_ud;
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
        return fence;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
        return flush_line;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
