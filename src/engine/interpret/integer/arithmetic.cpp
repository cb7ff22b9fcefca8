// ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

template <typename Operation, typename T>
Flow rm_reg(Core& core, const Op& op) noexcept
{
    const T result = Operation::template run<T>(get<T>(core, op.rm), get<T>(core, op.reg), core.flags);
    if constexpr (Operation::writes) set<T>(core, op.rm, result);
    return Flow::next;
}

template <typename Operation, typename T>
Flow reg_rm(Core& core, const Op& op) noexcept
{
    const T result = Operation::template run<T>(get<T>(core, op.reg), get<T>(core, op.rm), core.flags);
    if constexpr (Operation::writes) set<T>(core, op.reg, result);
    return Flow::next;
}

template <typename Operation, typename T>
Flow rm_immediate(Core& core, const Op& op) noexcept
{
    const T result =
        Operation::template run<T>(get<T>(core, op.rm), static_cast<T>(op.immediate), core.flags);
    if constexpr (Operation::writes) set<T>(core, op.rm, result);
    return Flow::next;
}

template <typename Operation, typename T, Addressing addressing>
Flow reg_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    const T result = Operation::template run<T>(get<T>(core, op.reg), value, core.flags);
    if constexpr (Operation::writes) set<T>(core, op.reg, result);
    return Flow::next;
}

template <typename Operation, typename T, Addressing addressing, Atomicity atomicity, bool immediate>
Flow memory_value(Core& core, const Op& op) noexcept
{
    const T value = immediate ? static_cast<T>(op.immediate) : get<T>(core, op.reg);
    if constexpr (Operation::writes) {
        return modify<addressing, T, atomicity>(core, op, [value](T old, Flags& flags) {
            return Operation::template run<T>(old, value, flags);
        });
    } else {
        T old;
        if (!read_operand<addressing>(core, op, old)) return core.pending_flow();
        Operation::template run<T>(old, value, core.flags);
        return Flow::next;
    }
}

template <typename Operation>
Handler choose_memory_value(const Decoded& decoded, const Op& op, bool immediate)
{
    return by_size(op.operand_size, [&](auto type) {
        using T = decltype(type);
        return by_addressing(decoded, op, [&](auto addressing) {
            return by_atomicity(op, [&](auto atomicity) -> Handler {
                return immediate ? memory_value<Operation, T, addressing(), atomicity(), true>
                                 : memory_value<Operation, T, addressing(), atomicity(), false>;
            });
        });
    });
}

template <typename Operation>
Handler choose_binary(const Decoded& decoded, Op& op)
{
    const ZydisDecodedOperand& first = decoded.operands[0];
    const bool immediate = decoded.operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (first.type == ZYDIS_OPERAND_TYPE_MEMORY) {
        return choose_memory_value<Operation>(decoded, op, immediate);
    }
    if (immediate) {
        if (op.rm == reg_none && first.encoding == ZYDIS_OPERAND_ENCODING_NONE) op.rm = x86::RAX;
        return by_size(op.operand_size,
                       [](auto type) -> Handler { return rm_immediate<Operation, decltype(type)>; });
    }
    if (op.memory) {
        return by_size(op.operand_size, [&](auto type) {
            using T = decltype(type);
            return by_addressing(decoded, op, [](auto addressing) -> Handler {
                return reg_memory<Operation, T, addressing()>;
            });
        });
    }
    const bool to_reg = first.encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
    return by_size(op.operand_size, [to_reg](auto type) -> Handler {
        using T = decltype(type);
        return to_reg ? reg_rm<Operation, T> : rm_reg<Operation, T>;
    });
}

template <typename Operation, typename T>
Flow unary_register(Core& core, const Op& op) noexcept
{
    set<T>(core, op.rm, Operation::template run<T>(get<T>(core, op.rm), core.flags));
    return Flow::next;
}

template <typename Operation, typename T, Addressing addressing, Atomicity atomicity>
Flow unary_memory(Core& core, const Op& op) noexcept
{
    return modify<addressing, T, atomicity>(
        core, op, [](T old, Flags& flags) { return Operation::template run<T>(old, flags); });
}

template <typename Operation>
Handler choose_unary(const Decoded& decoded, const Op& op)
{
    return by_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return unary_register<Operation, T>;
        return by_addressing(decoded, op, [&](auto addressing) {
            return by_atomicity(op, [&](auto atomicity) -> Handler {
                return unary_memory<Operation, T, addressing(), atomicity()>;
            });
        });
    });
}

// XOR r, r and the like: what compilers write for zero.
template <typename T>
Flow zero_register(Core& core, const Op& op) noexcept
{
    set<T>(core, op.rm, T{0});
    Xor::run<std::uint32_t>(0, 0, core.flags);
    return Flow::next;
}

}  // namespace

Handler lower_arithmetic(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_ADD: return choose_binary<Add>(decoded, op);
    case ZYDIS_MNEMONIC_OR: return choose_binary<Or>(decoded, op);
    case ZYDIS_MNEMONIC_ADC: return choose_binary<Adc>(decoded, op);
    case ZYDIS_MNEMONIC_SBB: return choose_binary<Sbb>(decoded, op);
    case ZYDIS_MNEMONIC_AND: return choose_binary<And>(decoded, op);
    case ZYDIS_MNEMONIC_SUB: return choose_binary<Sub>(decoded, op);
    case ZYDIS_MNEMONIC_XOR:
        if (!op.memory && op.reg == op.rm && op.operand_size == 4 &&
            decoded.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            return zero_register<std::uint32_t>;
        }
        return choose_binary<Xor>(decoded, op);
    case ZYDIS_MNEMONIC_CMP: return choose_binary<Cmp>(decoded, op);
    case ZYDIS_MNEMONIC_TEST: return choose_binary<Test>(decoded, op);
    case ZYDIS_MNEMONIC_INC: return choose_unary<Inc>(decoded, op);
    case ZYDIS_MNEMONIC_DEC: return choose_unary<Dec>(decoded, op);
    case ZYDIS_MNEMONIC_NEG: return choose_unary<Neg>(decoded, op);
    case ZYDIS_MNEMONIC_NOT: return choose_unary<Not>(decoded, op);
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
