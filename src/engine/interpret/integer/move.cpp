// MOV, MOVZX, MOVSX, MOVSXD, MOVBE, LEA, CMOVcc, SETcc, BSWAP, CBW and CWD families, XLAT.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

template <typename T>
Flow rm_reg(Core& core, const Op& op) noexcept
{
    set<T>(core, op.rm, get<T>(core, op.reg));
    return Flow::next;
}

template <typename T>
Flow reg_rm(Core& core, const Op& op) noexcept
{
    set<T>(core, op.reg, get<T>(core, op.rm));
    return Flow::next;
}

template <typename T>
Flow rm_immediate(Core& core, const Op& op) noexcept
{
    set<T>(core, op.rm, static_cast<T>(op.immediate));
    return Flow::next;
}

template <typename T, Addressing addressing>
Flow reg_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    set<T>(core, op.reg, value);
    return Flow::next;
}

template <typename T, Addressing addressing>
Flow memory_reg(Core& core, const Op& op) noexcept
{
    return write_operand<addressing>(core, op, get<T>(core, op.reg)) ? Flow::next
                                                                     : core.pending_flow();
}

template <typename T, Addressing addressing>
Flow memory_immediate(Core& core, const Op& op) noexcept
{
    return write_operand<addressing>(core, op, static_cast<T>(op.immediate)) ? Flow::next
                                                                             : core.pending_flow();
}

Handler choose_move(const Decoded& decoded, Op& op)
{
    const auto& to = decoded.operands[0];
    const auto& from = decoded.operands[1];
    const bool immediate = from.type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (!op.memory) {
        const bool to_reg = to.encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
        return by_size(op.operand_size, [&](auto type) -> Handler {
            using T = decltype(type);
            return immediate ? rm_immediate<T> : to_reg ? reg_rm<T> : rm_reg<T>;
        });
    }
    // MOV accumulator, [offset] has no register in its encoding.
    const bool to_memory = to.type == ZYDIS_OPERAND_TYPE_MEMORY;
    const auto& other = to_memory ? from : to;
    if (!immediate && other.encoding == ZYDIS_OPERAND_ENCODING_NONE) op.reg = x86::RAX;
    return by_size(op.operand_size, [&](auto type) {
        using T = decltype(type);
        return by_addressing(decoded, op, [&](auto addressing) -> Handler {
            if (!to_memory) return reg_memory<T, addressing()>;
            return immediate ? memory_immediate<T, addressing()> : memory_reg<T, addressing()>;
        });
    });
}

template <typename From, typename To>
To extend(From value)
{
    // Both unsigned: zero-extension; both signed: sign-extension.
    return static_cast<To>(value);
}

// Wide, Narrow: both signed or both unsigned.
template <typename Wide, typename Narrow>
Flow extend_register(Core& core, const Op& op) noexcept
{
    using Result = std::make_unsigned_t<Wide>;
    const auto narrow = static_cast<Narrow>(get<std::make_unsigned_t<Narrow>>(core, op.rm));
    set<Result>(core, op.reg, static_cast<Result>(extend<Narrow, Wide>(narrow)));
    return Flow::next;
}

template <typename Wide, typename Narrow, Addressing addressing>
Flow extend_memory(Core& core, const Op& op) noexcept
{
    using Result = std::make_unsigned_t<Wide>;
    std::make_unsigned_t<Narrow> value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    set<Result>(core, op.reg,
                static_cast<Result>(extend<Narrow, Wide>(static_cast<Narrow>(value))));
    return Flow::next;
}

template <typename Narrow>
Handler choose_extension(const Decoded& decoded, const Op& op)
{
    return by_wide_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        using Wide = std::conditional_t<std::is_signed_v<Narrow>, std::make_signed_t<T>, T>;
        if (!op.memory) return extend_register<Wide, Narrow>;
        return by_addressing(decoded, op, [](auto addressing) -> Handler {
            return extend_memory<Wide, Narrow, addressing()>;
        });
    });
}

template <typename T>
T swap_bytes(T value)
{
    if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
    if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
    if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

template <typename T>
Flow bswap(Core& core, const Op& op) noexcept
{
    // Of a 16-bit register: undefined; processors give zero.
    if constexpr (sizeof(T) == 2) {
        set<T>(core, op.rm, 0);
    } else {
        set<T>(core, op.rm, swap_bytes(get<T>(core, op.rm)));
    }
    return Flow::next;
}

template <typename T, Addressing addressing, bool to_memory>
Flow movbe(Core& core, const Op& op) noexcept
{
    if constexpr (to_memory) {
        return write_operand<addressing>(core, op, swap_bytes(get<T>(core, op.reg)))
                   ? Flow::next
                   : core.pending_flow();
    } else {
        T value;
        if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
        set<T>(core, op.reg, swap_bytes(value));
        return Flow::next;
    }
}

// Offsets only: no segment, no check.
template <typename T>
Flow lea(Core& core, const Op& op) noexcept
{
    set<T>(core, op.reg, static_cast<T>(core.effective_offset(op)));
    return Flow::next;
}

template <typename T>
Flow lea_wide(Core& core, const Op& op) noexcept
{
    set<T>(core, op.reg,
           static_cast<T>(core.gpr[op.base] + (core.gpr[op.index] << op.scale_shift) +
                          static_cast<std::uint64_t>(op.displacement)));
    return Flow::next;
}

template <unsigned code, typename T>
Flow cmov_register(Core& core, const Op& op) noexcept
{
    // A 32-bit destination loses its upper half either way.
    set<T>(core, op.reg, condition<code>(core.flags) ? get<T>(core, op.rm) : get<T>(core, op.reg));
    return Flow::next;
}

template <unsigned code, typename T, Addressing addressing>
Flow cmov_memory(Core& core, const Op& op) noexcept
{
    T value;
    if (!read_operand<addressing>(core, op, value)) return core.pending_flow();
    set<T>(core, op.reg, condition<code>(core.flags) ? value : get<T>(core, op.reg));
    return Flow::next;
}

template <unsigned code>
Flow set_register(Core& core, const Op& op) noexcept
{
    set<std::uint8_t>(core, op.rm, condition<code>(core.flags) ? 1 : 0);
    return Flow::next;
}

template <unsigned code, Addressing addressing>
Flow set_memory(Core& core, const Op& op) noexcept
{
    const std::uint8_t value = condition<code>(core.flags) ? 1 : 0;
    return write_operand<addressing>(core, op, value) ? Flow::next : core.pending_flow();
}

template <unsigned code = 0>
Handler choose_conditional(const Decoded& decoded, const Op& op, unsigned wanted, bool cmov)
{
    if constexpr (code < 16) {
        if (code != wanted) return choose_conditional<code + 1>(decoded, op, wanted, cmov);
        if (cmov) {
            return by_wide_size(op.operand_size, [&](auto type) -> Handler {
                using T = decltype(type);
                if (!op.memory) return cmov_register<code, T>;
                return by_addressing(decoded, op, [](auto addressing) -> Handler {
                    return cmov_memory<code, T, addressing()>;
                });
            });
        }
        if (!op.memory) return set_register<code>;
        return by_addressing(decoded, op, [](auto addressing) -> Handler {
            return set_memory<code, addressing()>;
        });
    } else {
        return nullptr;
    }
}

// CBW CWDE CDQE.
template <typename Wide, typename Narrow>
Flow widen_accumulator(Core& core, const Op&) noexcept
{
    const auto narrow = static_cast<Narrow>(core.gpr[x86::RAX]);
    set<std::make_unsigned_t<Wide>>(core, x86::RAX,
                                    static_cast<std::make_unsigned_t<Wide>>(Wide{narrow}));
    return Flow::next;
}

// CWD CDQ CQO.
template <typename T>
Flow sign_to_rdx(Core& core, const Op&) noexcept
{
    const auto value = static_cast<std::make_signed_t<T>>(get<T>(core, x86::RAX));
    set<T>(core, x86::RDX, value < 0 ? static_cast<T>(~T{0}) : T{0});
    return Flow::next;
}

Flow xlat(Core& core, const Op& op) noexcept
{
    std::uint64_t offset = core.gpr[x86::RBX] + get<std::uint8_t>(core, x86::RAX);
    if (op.address_size == 2) offset &= 0xffff;
    if (op.address_size == 4) offset &= 0xffffffff;
    std::uint64_t linear = 0;
    std::uint8_t value = 0;
    if (!core.linear_address(op.segment, offset, 1, false, linear) || !core.load(linear, value)) {
        return core.pending_flow();
    }
    set<std::uint8_t>(core, x86::RAX, value);
    return Flow::next;
}

Handler lower_by_opcode(const Decoded& decoded, const Op& op)
{
    const unsigned opcode = decoded.instruction.opcode;
    if (decoded.instruction.opcode_map == ZYDIS_OPCODE_MAP_0F) {
        if ((opcode & 0xf0) == 0x40) return choose_conditional(decoded, op, opcode & 0xf, true);
        if ((opcode & 0xf0) == 0x90) return choose_conditional(decoded, op, opcode & 0xf, false);
    }
    return nullptr;
}

}  // namespace

Handler lower_move(const Decoded& decoded, Op& op)
{
    const auto source_bits = [&] { return decoded.operands[1].size; };
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_MOV: return choose_move(decoded, op);
    case ZYDIS_MNEMONIC_MOVZX:
        return source_bits() == 8 ? choose_extension<std::uint8_t>(decoded, op)
                                  : choose_extension<std::uint16_t>(decoded, op);
    case ZYDIS_MNEMONIC_MOVSX:
        return source_bits() == 8 ? choose_extension<std::int8_t>(decoded, op)
                                  : choose_extension<std::int16_t>(decoded, op);
    case ZYDIS_MNEMONIC_MOVSXD:
        // Without REX.W a plain move; with a 16-bit operand size the source is 16 bits.
        return source_bits() == 16 ? choose_extension<std::int16_t>(decoded, op)
                                   : choose_extension<std::int32_t>(decoded, op);
    case ZYDIS_MNEMONIC_MOVBE: {
        const bool to_memory = decoded.operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
        return by_wide_size(op.operand_size, [&](auto type) {
            using T = decltype(type);
            return by_addressing(decoded, op, [&](auto addressing) -> Handler {
                return to_memory ? movbe<T, addressing(), true> : movbe<T, addressing(), false>;
            });
        });
    }
    case ZYDIS_MNEMONIC_LEA:
        return by_wide_size(op.operand_size, [&](auto type) -> Handler {
            using T = decltype(type);
            return op.address_size == 8 ? lea_wide<T> : lea<T>;
        });
    case ZYDIS_MNEMONIC_BSWAP:
        return by_wide_size(op.operand_size,
                            [](auto type) -> Handler { return bswap<decltype(type)>; });
    case ZYDIS_MNEMONIC_CBW: return widen_accumulator<std::int16_t, std::int8_t>;
    case ZYDIS_MNEMONIC_CWDE: return widen_accumulator<std::int32_t, std::int16_t>;
    case ZYDIS_MNEMONIC_CDQE: return widen_accumulator<std::int64_t, std::int32_t>;
    case ZYDIS_MNEMONIC_CWD: return sign_to_rdx<std::uint16_t>;
    case ZYDIS_MNEMONIC_CDQ: return sign_to_rdx<std::uint32_t>;
    case ZYDIS_MNEMONIC_CQO: return sign_to_rdx<std::uint64_t>;
    case ZYDIS_MNEMONIC_XLAT:
        for (const ZydisDecodedOperand& operand : decoded.operands) {
            if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
                op.segment = static_cast<std::uint8_t>(operand.mem.segment - ZYDIS_REGISTER_ES);
            }
        }
        return xlat;
    default: return lower_by_opcode(decoded, op);
    }
}

}  // namespace doppel::engine::interpret
