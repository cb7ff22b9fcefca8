// XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B.
#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

template <typename T>
Flow xchg_register(Core& core, const Op& op) noexcept
{
    const T a = get<T>(core, op.reg);
    set<T>(core, op.reg, get<T>(core, op.rm));
    set<T>(core, op.rm, a);
    return Flow::next;
}

// Locked with or without the prefix.
template <typename T, Addressing addressing>
Flow xchg_memory(Core& core, const Op& op) noexcept
{
    const T desired = get<T>(core, op.reg);
    T seen{};
    const Flow flow = modify<addressing, T, Atomicity::locked>(core, op, [&](T old, Flags&) {
        seen = old;
        return desired;
    });
    if (flow == Flow::next) set<T>(core, op.reg, seen);
    return flow;
}

// XCHG with the accumulator: one register is in the opcode, the other nowhere.
template <typename T>
Flow xchg_accumulator(Core& core, const Op& op) noexcept
{
    const T a = get<T>(core, x86::RAX);
    set<T>(core, x86::RAX, get<T>(core, op.rm));
    set<T>(core, op.rm, a);
    return Flow::next;
}

Flow nop(Core&, const Op&) noexcept
{
    return Flow::next;
}

Handler choose_xchg(const Decoded& decoded, const Op& op)
{
    return by_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (op.memory) {
            return by_addressing(decoded, op, [](auto addressing) -> Handler {
                return xchg_memory<T, addressing()>;
            });
        }
        if (decoded.instruction.opcode < 0x90) return xchg_register<T>;
        return xchg_accumulator<T>;
    });
}

template <typename T>
Flow xadd_register(Core& core, const Op& op) noexcept
{
    const T old = get<T>(core, op.rm);
    const T sum = Add::run<T>(old, get<T>(core, op.reg), core.flags);
    set<T>(core, op.reg, old);
    set<T>(core, op.rm, sum);
    return Flow::next;
}

template <typename T, Addressing addressing, Atomicity atomicity>
Flow xadd_memory(Core& core, const Op& op) noexcept
{
    const T addend = get<T>(core, op.reg);
    T seen{};
    const Flow flow = modify<addressing, T, atomicity>(core, op, [&](T old, Flags& flags) {
        seen = old;
        return Add::run<T>(old, addend, flags);
    });
    if (flow == Flow::next) set<T>(core, op.reg, seen);
    return flow;
}

Handler choose_xadd(const Decoded& decoded, const Op& op)
{
    return by_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return xadd_register<T>;
        return by_addressing(decoded, op, [&](auto addressing) {
            return by_atomicity(op, [&](auto atomicity) -> Handler {
                return xadd_memory<T, addressing(), atomicity()>;
            });
        });
    });
}

template <typename T>
Flow cmpxchg_register(Core& core, const Op& op) noexcept
{
    const T old = get<T>(core, op.rm);
    Cmp::run<T>(get<T>(core, x86::RAX), old, core.flags);
    if ((core.flags & packed::ZF) != 0) {
        set<T>(core, op.rm, get<T>(core, op.reg));
    } else {
        set<T>(core, x86::RAX, old);
    }
    return Flow::next;
}

// The destination is written in any case: with what it had when the comparison fails.
template <typename T, Addressing addressing, Atomicity atomicity>
Flow cmpxchg_memory(Core& core, const Op& op) noexcept
{
    const T expected = get<T>(core, x86::RAX);
    const T desired = get<T>(core, op.reg);
    T seen{};
    const Flow flow = modify<addressing, T, atomicity>(core, op, [&](T old, Flags& flags) {
        seen = old;
        Cmp::run<T>(expected, old, flags);
        return expected == old ? desired : old;
    });
    if (flow == Flow::next && seen != expected) set<T>(core, x86::RAX, seen);
    return flow;
}

Handler choose_cmpxchg(const Decoded& decoded, const Op& op)
{
    return by_size(op.operand_size, [&](auto type) -> Handler {
        using T = decltype(type);
        if (!op.memory) return cmpxchg_register<T>;
        return by_addressing(decoded, op, [&](auto addressing) {
            return by_atomicity(op, [&](auto atomicity) -> Handler {
                return cmpxchg_memory<T, addressing(), atomicity()>;
            });
        });
    });
}

template <typename T>
struct Pair {
    T low, high;
    bool operator==(const Pair&) const = default;
};

template <typename T>
bool host_compare_pair(std::byte* at, Pair<T>& expected, Pair<T> desired)
{
    bool done = false;
    // SAFETY: `at` is writable guest RAM of 2 * sizeof(T) bytes; CMPXCHG16B's alignment was
    // checked by the caller.
    if constexpr (sizeof(T) == 8) {
        asm volatile("lock cmpxchg16b (%[at])"
                     : "+a"(expected.low), "+d"(expected.high), "=@ccz"(done)
                     : [at] "r"(at), "b"(desired.low), "c"(desired.high)
                     : "cc", "memory");
    } else {
        asm volatile("lock cmpxchg8b (%[at])"
                     : "+a"(expected.low), "+d"(expected.high), "=@ccz"(done)
                     : [at] "r"(at), "b"(desired.low), "c"(desired.high)
                     : "cc", "memory");
    }
    return done;
}

// CMPXCHG8B and, with T = 64 bits, CMPXCHG16B. Only ZF changes.
template <typename T>
Flow cmpxchg_pair(Core& core, const Op& op) noexcept
{
    constexpr unsigned size = 2 * sizeof(T);
    std::uint64_t linear = 0;
    if (!core.operand_address(op, size, true, linear)) return core.pending_flow();
    if (sizeof(T) == 8 && (linear & 15) != 0) return core.raise(Vector::GP);
    Pair<T> expected{get<T>(core, x86::RAX), get<T>(core, x86::RDX)};
    const Pair<T> desired{get<T>(core, x86::RBX), get<T>(core, x86::RCX)};
    bool equal = false;
    if (std::byte* at = core.write_pointer(linear, size)) {
        equal = host_compare_pair(at, expected, desired);
    } else {
        Pair<T> old{};
        const auto bytes = std::as_writable_bytes(std::span{&old, 1});
        if (core.failed() || !core.check_write(linear, size) || !core.load_bytes(linear, bytes)) {
            return core.pending_flow();
        }
        equal = old == expected;
        const Pair<T> result = equal ? desired : old;
        if (!core.store_bytes(linear, std::as_bytes(std::span{&result, 1}))) {
            return core.pending_flow();
        }
        expected = old;
    }
    core.flags = static_cast<Flags>(equal ? core.flags | packed::ZF : core.flags & ~packed::ZF);
    if (!equal) {
        set<T>(core, x86::RAX, expected.low);
        set<T>(core, x86::RDX, expected.high);
    }
    return Flow::next;
}

}  // namespace

Handler lower_exchange(const Decoded& decoded, Op& op)
{
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_XCHG: return choose_xchg(decoded, op);
    case ZYDIS_MNEMONIC_XADD: return choose_xadd(decoded, op);
    case ZYDIS_MNEMONIC_CMPXCHG: return choose_cmpxchg(decoded, op);
    case ZYDIS_MNEMONIC_CMPXCHG8B: return cmpxchg_pair<std::uint32_t>;
    case ZYDIS_MNEMONIC_CMPXCHG16B: return cmpxchg_pair<std::uint64_t>;
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_CLDEMOTE:
        return nop;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
