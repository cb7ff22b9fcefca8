// BT BTS BTR BTC, BSF BSR, POPCNT LZCNT TZCNT, CRC32.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

template <typename Operation, typename T, bool immediate>
Flow test_register(Core& core, const Op& op) noexcept
{
    const T bit = immediate ? static_cast<T>(op.immediate) : get<T>(core, op.reg);
    const T result = Operation::template run<T>(get<T>(core, op.rm), bit, core.flags);
    set<T>(core, op.rm, result);
    return Flow::next;
}

// BT does not write, not even the upper half of a 32-bit register.
template <typename T, bool immediate>
Flow bt_register(Core& core, const Op& op) noexcept
{
    const T bit = immediate ? static_cast<T>(op.immediate) : get<T>(core, op.reg);
    Bt::run<T>(get<T>(core, op.rm), bit, core.flags);
    return Flow::next;
}

// A register bit offset reaches beyond the operand: SDM volume 2, BT.
template <typename T, bool immediate>
bool bit_address(Core& core, const Op& op, bool write, std::uint64_t& linear, T& bit)
{
    std::uint64_t offset = core.effective_offset(op);
    if constexpr (immediate) {
        bit = static_cast<T>(op.immediate);
    } else {
        bit = get<T>(core, op.reg);
        const auto index = static_cast<std::int64_t>(static_cast<std::make_signed_t<T>>(bit));
        constexpr std::int64_t bits = sizeof(T) * 8;
        const std::int64_t units = (index - (index & (bits - 1))) / bits;
        offset += static_cast<std::uint64_t>(units) * sizeof(T);
        if (op.address_size == 2) offset &= 0xffff;
        if (op.address_size == 4) offset &= 0xffffffff;
    }
    return core.linear_address(op.segment, offset, sizeof(T), write, linear);
}

template <typename T, bool immediate>
Flow bt_memory(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0;
    T bit, value;
    if (!bit_address<T, immediate>(core, op, false, linear, bit) || !core.load(linear, value)) {
        return core.pending_flow();
    }
    Bt::run<T>(value, bit, core.flags);
    return Flow::next;
}

template <typename Operation, typename T, bool immediate, Atomicity atomicity>
Flow test_memory(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0;
    T bit;
    if (!bit_address<T, immediate>(core, op, true, linear, bit)) return core.pending_flow();
    return modify_at<T, atomicity>(core, linear, [bit](T old, Flags& flags) {
        return Operation::template run<T>(old, bit, flags);
    });
}

template <typename Operation>
Handler choose_test(const Decoded& decoded, const Op& op)
{
    const bool immediate = decoded.operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    return by_wide_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if constexpr (std::is_same_v<Operation, Bt>) {
            if (op.memory) return immediate ? bt_memory<T, true> : bt_memory<T, false>;
            return immediate ? bt_register<T, true> : bt_register<T, false>;
        } else {
            if (!op.memory) {
                return immediate ? test_register<Operation, T, true>
                                 : test_register<Operation, T, false>;
            }
            return by_atomicity(op, [&](auto atomicity) -> Handler {
                return immediate ? test_memory<Operation, T, true, atomicity()>
                                 : test_memory<Operation, T, false, atomicity()>;
            });
        }
    });
}

// Of zero, BSF and BSR leave the destination alone: all 64 bits of it on this processor, so
// the host's own instruction works on the whole register.
template <typename Operation, typename T>
void scan(Core& core, const Op& op, T value)
{
    std::uint64_t to = core.gpr[op.reg];
    Flags f = core.flags;
    if constexpr (std::is_same_v<Operation, Bsf>) {
        if constexpr (sizeof(T) == 4) {
            asm(DOPPEL_RESTORE_FLAGS "bsf %k[b], %k[a]" DOPPEL_TAKE_FLAGS
                : [a] "+&r"(to), "+&a"(f) : [b] "r"(value) : "cc");
        } else {
            asm(DOPPEL_RESTORE_FLAGS "bsf %q[b], %q[a]" DOPPEL_TAKE_FLAGS
                : [a] "+&r"(to), "+&a"(f) : [b] "r"(value) : "cc");
        }
    } else {
        if constexpr (sizeof(T) == 4) {
            asm(DOPPEL_RESTORE_FLAGS "bsr %k[b], %k[a]" DOPPEL_TAKE_FLAGS
                : [a] "+&r"(to), "+&a"(f) : [b] "r"(value) : "cc");
        } else {
            asm(DOPPEL_RESTORE_FLAGS "bsr %q[b], %q[a]" DOPPEL_TAKE_FLAGS
                : [a] "+&r"(to), "+&a"(f) : [b] "r"(value) : "cc");
        }
    }
    core.gpr[op.reg] = to;
    core.flags = f;
}

template <typename Operation, typename T>
void count(Core& core, const Op& op, T value)
{
    constexpr bool scans = std::is_same_v<Operation, Bsf> || std::is_same_v<Operation, Bsr>;
    if constexpr (scans && sizeof(T) != 2) {
        scan<Operation, T>(core, op, value);
    } else {
        set<T>(core, op.reg, Operation::template run<T>(get<T>(core, op.reg), value, core.flags));
    }
}

template <typename Operation, typename T>
Flow count_register(Core& core, const Op& op) noexcept
{
    count<Operation, T>(core, op, get<T>(core, op.rm));
    return Flow::next;
}

template <typename Operation, typename T, Addressing addressing>
Flow count_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    count<Operation, T>(core, op, value);
    return Flow::next;
}

template <typename Operation>
Handler choose_count(const Decoded& decoded, const Op& op)
{
    return by_wide_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return count_register<Operation, T>;
        return by_addressing(decoded, op, [](auto addressing) -> Handler {
            return count_memory<Operation, T, addressing()>;
        });
    });
}

template <typename T>
std::uint32_t crc(std::uint32_t sum, T value)
{
    std::uint64_t wide = sum;
    // SAFETY: registers only; every host of this program has SSE4.2 (the policy offers it
    // only then).
    if constexpr (sizeof(T) == 8) {
        asm("crc32q %[value], %[sum]" : [sum] "+r"(wide) : [value] "r"(value));
        return static_cast<std::uint32_t>(wide);
    } else {
        asm("crc32 %[value], %[sum]" : [sum] "+r"(sum) : [value] "r"(value));
        return sum;
    }
}

template <typename T>
Flow crc_register(Core& core, const Op& op) noexcept
{
    const T value = get<T>(core, op.rm);
    set<std::uint32_t>(core, op.reg, crc(get<std::uint32_t>(core, op.reg), value));
    return Flow::next;
}

template <typename T, Addressing addressing>
Flow crc_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    set<std::uint32_t>(core, op.reg, crc(get<std::uint32_t>(core, op.reg), value));
    return Flow::next;
}

Handler choose_crc(const Decoded& decoded, const Op& op)
{
    return by_size(decoded.operands[1].size / 8u, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return crc_register<T>;
        return by_addressing(decoded, op, [](auto addressing) -> Handler {
            return crc_memory<T, addressing()>;
        });
    });
}

}  // namespace

Handler lower_bits(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_BT: return choose_test<Bt>(decoded, op);
    case ZYDIS_MNEMONIC_BTS: return choose_test<Bts>(decoded, op);
    case ZYDIS_MNEMONIC_BTR: return choose_test<Btr>(decoded, op);
    case ZYDIS_MNEMONIC_BTC: return choose_test<Btc>(decoded, op);
    case ZYDIS_MNEMONIC_BSF: return choose_count<Bsf>(decoded, op);
    case ZYDIS_MNEMONIC_BSR: return choose_count<Bsr>(decoded, op);
    case ZYDIS_MNEMONIC_POPCNT: return choose_count<Popcnt>(decoded, op);
    case ZYDIS_MNEMONIC_LZCNT: return choose_count<Lzcnt>(decoded, op);
    case ZYDIS_MNEMONIC_TZCNT: return choose_count<Tzcnt>(decoded, op);
    case ZYDIS_MNEMONIC_CRC32: return choose_crc(decoded, op);
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
