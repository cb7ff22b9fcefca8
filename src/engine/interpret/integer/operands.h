// Operands of integer handlers, by type, and how a handler is chosen for them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine/interpret/core.h"
#include "engine/interpret/integer/flags.h"
#include "engine/interpret/lower.h"

namespace doppel::engine::interpret {

// ---- registers -------------------------------------------------------------------------------

template <typename T>
inline T get(const Core& core, std::uint8_t n)
{
    if constexpr (sizeof(T) == 1) {
        // 16-19 are AH CH DH BH: the second byte of the first four.
        const auto* bytes = std::bit_cast<const std::uint8_t*>(core.gpr.data());
        return static_cast<T>(bytes[(n & 15u) * 8 + (n >> 4)]);
    } else {
        return static_cast<T>(core.gpr[n]);
    }
}

// 32-bit results clear the upper half (SDM volume 1 section 3.4.1.1).
template <typename T>
inline void set(Core& core, std::uint8_t n, T value)
{
    if constexpr (sizeof(T) == 1) {
        auto* bytes = std::bit_cast<std::uint8_t*>(core.gpr.data());
        bytes[(n & 15u) * 8 + (n >> 4)] = static_cast<std::uint8_t>(value);
    } else if constexpr (sizeof(T) == 2) {
        std::memcpy(&core.gpr[n], &value, sizeof(T));
    } else {
        core.gpr[n] = static_cast<std::uint64_t>(value);
    }
}

// ---- addresses ---------------------------------------------------------------------------------

// How a memory operand becomes a linear address. `flat`: 64-bit code with 64-bit addresses,
// where nothing is checked before the access; `simple`: the same without index and segment.
enum class Addressing : std::uint8_t { simple, flat, checked };

inline Addressing addressing_of(const Decoded& decoded, const Op& op)
{
    if (decoded.code_size != CodeSize::bits64 || op.address_size != 8) return Addressing::checked;
    const bool based = op.segment == x86::FS || op.segment == x86::GS;
    return op.index == reg_none && !based ? Addressing::simple : Addressing::flat;
}

template <Addressing addressing>
inline bool address(Core& core, const Op& op, unsigned size, bool write, std::uint64_t& linear)
{
    if constexpr (addressing == Addressing::simple) {
        linear = core.gpr[op.base] + static_cast<std::uint64_t>(op.displacement);
        return true;
    } else if constexpr (addressing == Addressing::flat) {
        linear = core.gpr[op.base] + (core.gpr[op.index] << op.scale_shift) +
                 static_cast<std::uint64_t>(op.displacement) + core.segment_base[op.segment];
        return true;
    } else {
        return core.operand_address(op, size, write, linear);
    }
}

template <Addressing addressing, typename T>
inline bool read_operand(Core& core, const Op& op, T& value)
{
    std::uint64_t linear = 0;
    return address<addressing>(core, op, sizeof(T), false, linear) && core.load(linear, value);
}

template <Addressing addressing, typename T>
inline bool write_operand(Core& core, const Op& op, T value)
{
    std::uint64_t linear = 0;
    return address<addressing>(core, op, sizeof(T), true, linear) && core.store(linear, value);
}

template <typename T>
inline bool host_compare_and_swap(std::byte* at, T& expected, T desired)
{
    bool done = false;
    // SAFETY: `at` is writable guest RAM of sizeof(T) bytes within one page (write_pointer).
    // Unaligned is fine for the instruction, which std::atomic_ref does not promise.
    asm volatile("lock cmpxchg %[desired], %[at]"
                 : [at] "+m"(*std::bit_cast<T*>(at)), "+a"(expected), "=@ccz"(done)
                 : [desired] "r"(desired)
                 : "cc", "memory");
    return done;
}

enum class Atomicity : std::uint8_t { plain, locked };

// Read, f, write: f(T old, Flags&) gives the new value. Flags take effect when all went well.
template <typename T, Atomicity atomicity, typename Function>
inline Flow modify_at(Core& core, std::uint64_t linear, Function f)
{
    Flags flags = core.flags;
    if (std::byte* at = core.write_pointer(linear, sizeof(T))) [[likely]] {
        T old;
        std::memcpy(&old, at, sizeof(T));
        if constexpr (atomicity == Atomicity::plain) {
            const T result = f(old, flags);
            std::memcpy(at, &result, sizeof(T));
        } else {
            for (;;) {
                flags = core.flags;
                if (host_compare_and_swap(at, old, f(old, flags))) break;
            }
        }
        core.flags = flags;
        return Flow::next;
    }
    // A device, ROM, or two pages.
    T old{};
    if (core.failed() || !core.check_write(linear, sizeof(T)) || !core.load(linear, old)) {
        return core.pending_flow();
    }
    if (!core.store(linear, f(old, flags))) return core.pending_flow();
    core.flags = flags;
    return Flow::next;
}

template <Addressing addressing, typename T, Atomicity atomicity, typename Function>
inline Flow modify(Core& core, const Op& op, Function f)
{
    std::uint64_t linear = 0;
    if (!address<addressing>(core, op, sizeof(T), true, linear)) return core.pending_flow();
    return modify_at<T, atomicity>(core, linear, f);
}

// ---- choosing a handler ----------------------------------------------------------------------

template <Addressing value>
using AddressingTag = std::integral_constant<Addressing, value>;
template <Atomicity value>
using AtomicityTag = std::integral_constant<Atomicity, value>;

// choose(T{}) with T unsigned, of `size` bytes; gives what it gives.
template <typename Choose>
inline Handler by_size(unsigned size, Choose choose)
{
    switch (size) {
    case 1: return choose(std::uint8_t{});
    case 2: return choose(std::uint16_t{});
    case 4: return choose(std::uint32_t{});
    default: return choose(std::uint64_t{});
    }
}

// Without bytes.
template <typename Choose>
inline Handler by_wide_size(unsigned size, Choose choose)
{
    switch (size) {
    case 2: return choose(std::uint16_t{});
    case 4: return choose(std::uint32_t{});
    default: return choose(std::uint64_t{});
    }
}

template <typename Choose>
inline Handler by_addressing(const Decoded& decoded, const Op& op, Choose choose)
{
    switch (addressing_of(decoded, op)) {
    case Addressing::simple: return choose(AddressingTag<Addressing::simple>{});
    case Addressing::flat: return choose(AddressingTag<Addressing::flat>{});
    case Addressing::checked: break;
    }
    return choose(AddressingTag<Addressing::checked>{});
}

template <typename Choose>
inline Handler by_atomicity(const Op& op, Choose choose)
{
    return op.lock ? choose(AtomicityTag<Atomicity::locked>{})
                   : choose(AtomicityTag<Atomicity::plain>{});
}

// ---- the families --------------------------------------------------------------------------------
// Each gives the handler for an instruction of its own (and may complete the op), or nullptr.

Handler lower_move(const Decoded& decoded, Op& op);
Handler lower_arithmetic(const Decoded& decoded, Op& op);
Handler lower_shift(const Decoded& decoded, Op& op);
Handler lower_bits(const Decoded& decoded, Op& op);
Handler lower_multiply(const Decoded& decoded, Op& op);
Handler lower_exchange(const Decoded& decoded, Op& op);
Handler lower_stack(const Decoded& decoded, Op& op);
Handler lower_branch(const Decoded& decoded, Op& op);
Handler lower_string(const Decoded& decoded, Op& op);
Handler lower_decimal(const Decoded& decoded, Op& op);
Handler lower_flags(const Decoded& decoded, Op& op);

}  // namespace doppel::engine::interpret
