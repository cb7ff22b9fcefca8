// ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

// The count: CL, or an immediate (1 for the short forms).
template <bool by_cl>
std::uint8_t count_of(const Core& core, const Op& op)
{
    return by_cl ? get<std::uint8_t>(core, x86::RCX) : static_cast<std::uint8_t>(op.immediate);
}

template <typename Operation, typename T, bool by_cl>
Flow shift_register(Core& core, const Op& op) noexcept
{
    const std::uint8_t count = count_of<by_cl>(core, op);
    set<T>(core, op.rm, Operation::template run<T>(get<T>(core, op.rm), count, core.flags));
    return Flow::next;
}

template <typename Operation, typename T, bool by_cl, Addressing addressing>
Flow shift_memory(Core& core, const Op& op) noexcept
{
    const std::uint8_t count = count_of<by_cl>(core, op);
    return modify<addressing, T, Atomicity::plain>(core, op, [count](T old, Flags& flags) {
        return Operation::template run<T>(old, count, flags);
    });
}

template <typename Operation>
Handler choose_shift(const Decoded& decoded, Op& op)
{
    const bool by_cl = decoded.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    return by_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) {
            return by_cl ? shift_register<Operation, T, true> : shift_register<Operation, T, false>;
        }
        return by_addressing(decoded, op, [&](auto addressing) -> Handler {
            return by_cl ? shift_memory<Operation, T, true, addressing()>
                         : shift_memory<Operation, T, false, addressing()>;
        });
    });
}

template <typename Operation, typename T, bool by_cl>
Flow double_shift_register(Core& core, const Op& op) noexcept
{
    const std::uint8_t count = count_of<by_cl>(core, op);
    set<T>(core, op.rm, Operation::template run<T>(get<T>(core, op.rm), get<T>(core, op.reg), count,
                                                   core.flags));
    return Flow::next;
}

template <typename Operation, typename T, bool by_cl, Addressing addressing>
Flow double_shift_memory(Core& core, const Op& op) noexcept
{
    const std::uint8_t count = count_of<by_cl>(core, op);
    const T from = get<T>(core, op.reg);
    return modify<addressing, T, Atomicity::plain>(core, op, [count, from](T old, Flags& flags) {
        return Operation::template run<T>(old, from, count, flags);
    });
}

template <typename Operation>
Handler choose_double_shift(const Decoded& decoded, Op& op)
{
    const bool by_cl = decoded.operands[2].type == ZYDIS_OPERAND_TYPE_REGISTER;
    return by_wide_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) {
            return by_cl ? double_shift_register<Operation, T, true>
                         : double_shift_register<Operation, T, false>;
        }
        return by_addressing(decoded, op, [&](auto addressing) -> Handler {
            return by_cl ? double_shift_memory<Operation, T, true, addressing()>
                         : double_shift_memory<Operation, T, false, addressing()>;
        });
    });
}

}  // namespace

Handler lower_shift(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_ROL: return choose_shift<Rol>(decoded, op);
    case ZYDIS_MNEMONIC_ROR: return choose_shift<Ror>(decoded, op);
    case ZYDIS_MNEMONIC_RCL: return choose_shift<Rcl>(decoded, op);
    case ZYDIS_MNEMONIC_RCR: return choose_shift<Rcr>(decoded, op);
    case ZYDIS_MNEMONIC_SHL: return choose_shift<Shl>(decoded, op);
    case ZYDIS_MNEMONIC_SHR: return choose_shift<Shr>(decoded, op);
    case ZYDIS_MNEMONIC_SAR: return choose_shift<Sar>(decoded, op);
    case ZYDIS_MNEMONIC_SHLD: return choose_double_shift<Shld>(decoded, op);
    case ZYDIS_MNEMONIC_SHRD: return choose_double_shift<Shrd>(decoded, op);
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
