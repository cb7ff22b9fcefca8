// MUL IMUL DIV IDIV.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

// Bytes: AX is product and dividend; else RDX:RAX.
template <typename T>
struct Accumulator {
    T low, high;
};

template <typename T>
Accumulator<T> accumulator(const Core& core)
{
    if constexpr (sizeof(T) == 1) {
        return {get<std::uint8_t>(core, x86::RAX), get<std::uint8_t>(core, 16)};
    } else {
        return {get<T>(core, x86::RAX), get<T>(core, x86::RDX)};
    }
}

template <typename T>
void set_accumulator(Core& core, Accumulator<T> value)
{
    set<T>(core, x86::RAX, value.low);
    set<T>(core, sizeof(T) == 1 ? std::uint8_t{16} : std::uint8_t{x86::RDX}, value.high);
}

enum class Operation : std::uint8_t { mul, imul, div, idiv };

// The host's instruction on the guest's RAX, RDX and flags. Division: the caller has seen
// that the quotient fits.
template <Operation operation, typename T>
void run_host(Accumulator<T>& value, T by, Flags& flags)
{
    // Flags are restored before the accumulator is loaded (MOV leaves them alone), and the
    // results moved away before LAHF.
    std::uint64_t low = sizeof(T) == 1 ? static_cast<std::uint64_t>(value.high) << 8 | value.low
                                       : static_cast<std::uint64_t>(value.low);
    auto high = static_cast<std::uint64_t>(value.high);
    Flags f = flags;
#define DOPPEL_RUN(text)                                                                      \
    asm(DOPPEL_RESTORE_FLAGS "movq %[low], %%rax\n\t" text " %[by]\n\tmovq %%rax, %[low]"      \
        DOPPEL_TAKE_FLAGS                                                                     \
        : [low] "+&r"(low), "+&d"(high), "+&a"(f)                                             \
        : [by] "r"(by)                                                                        \
        : "cc")
    if constexpr (operation == Operation::mul) DOPPEL_RUN("mul");
    if constexpr (operation == Operation::imul) DOPPEL_RUN("imul");
    if constexpr (operation == Operation::div) DOPPEL_RUN("div");
    if constexpr (operation == Operation::idiv) DOPPEL_RUN("idiv");
#undef DOPPEL_RUN
    flags = f;
    value.low = static_cast<T>(low);
    value.high = static_cast<T>(sizeof(T) == 1 ? low >> 8 : high);
}

__extension__ using Wide = __int128;
__extension__ using UnsignedWide = unsigned __int128;

// #DE: division by zero, or a quotient that does not fit.
template <typename T>
bool quotient_fits(Accumulator<T> value, T by)
{
    return value.high < by;  // also: by != 0
}

template <typename T>
bool signed_quotient_fits(Accumulator<T> value, T by)
{
    using Signed = std::make_signed_t<T>;
    if (by == 0) return false;
    constexpr unsigned bits = sizeof(T) * 8;
    const auto dividend = static_cast<Wide>(
        static_cast<UnsignedWide>(static_cast<Wide>(static_cast<Signed>(value.high)))
            << bits |
        value.low);
    const auto divisor = static_cast<Wide>(static_cast<Signed>(by));
    // The most negative dividend of all by -1 is the one that overflows in 128 bits.
    if (divisor == -1 && dividend == static_cast<Wide>(1) << 127) return false;
    const Wide quotient = dividend / divisor;
    return quotient == static_cast<Wide>(static_cast<Signed>(quotient));
}

template <Operation operation, typename T>
Flow compute(Core& core, T by)
{
    Accumulator<T> value = accumulator<T>(core);
    if constexpr (operation == Operation::div) {
        if (!quotient_fits(value, by)) return core.raise(Vector::DE);
    }
    if constexpr (operation == Operation::idiv) {
        if (!signed_quotient_fits(value, by)) return core.raise(Vector::DE);
    }
    run_host<operation>(value, by, core.flags);
    set_accumulator(core, value);
    return Flow::next;
}

template <Operation operation, typename T>
Flow wide_register(Core& core, const Op& op) noexcept
{
    return compute<operation, T>(core, get<T>(core, op.rm));
}

template <Operation operation, typename T, Addressing addressing>
Flow wide_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    return compute<operation, T>(core, value);
}

template <Operation operation>
Handler choose_wide(const Decoded& decoded, const Op& op)
{
    return by_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return wide_register<operation, T>;
        return by_addressing(decoded, op, [](auto addressing) -> Handler {
            return wide_memory<operation, T, addressing()>;
        });
    });
}

// IMUL reg, rm and IMUL reg, rm, immediate.
template <typename T, bool immediate>
Flow imul_register(Core& core, const Op& op) noexcept
{
    const T a = immediate ? static_cast<T>(op.immediate) : get<T>(core, op.reg);
    set<T>(core, op.reg, Imul::run<T>(a, get<T>(core, op.rm), core.flags));
    return Flow::next;
}

template <typename T, bool immediate, Addressing addressing>
Flow imul_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    const T a = immediate ? static_cast<T>(op.immediate) : get<T>(core, op.reg);
    set<T>(core, op.reg, Imul::run<T>(a, value, core.flags));
    return Flow::next;
}

Handler choose_imul(const Decoded& decoded, const Op& op)
{
    if (decoded.operands[0].encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG) {
        return choose_wide<Operation::imul>(decoded, op);
    }
    const bool immediate = decoded.instruction.operand_count_visible == 3;
    return by_wide_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return immediate ? imul_register<T, true> : imul_register<T, false>;
        return by_addressing(decoded, op, [&](auto addressing) -> Handler {
            return immediate ? imul_memory<T, true, addressing()>
                             : imul_memory<T, false, addressing()>;
        });
    });
}

}  // namespace

Handler lower_multiply(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_MUL: return choose_wide<Operation::mul>(decoded, op);
    case ZYDIS_MNEMONIC_IMUL: return choose_imul(decoded, op);
    case ZYDIS_MNEMONIC_DIV: return choose_wide<Operation::div>(decoded, op);
    case ZYDIS_MNEMONIC_IDIV: return choose_wide<Operation::idiv>(decoded, op);
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
