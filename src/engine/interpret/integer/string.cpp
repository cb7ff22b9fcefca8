// MOVS STOS LODS SCAS CMPS with and without REP.
//
// Registers are updated after every iteration, so that a fault, a device exit or an interrupt
// in the middle leaves the state that the SDM prescribes and the instruction restarts. Runs
// of plain RAM within one page go as one host copy or fill.
#include <algorithm>

#include "engine/interpret/integer/operands.h"

namespace doppel::engine::interpret {

namespace {

enum class Kind : std::uint8_t { movs, stos, lods, scas, cmps };

constexpr bool reads_source(Kind kind)
{
    return kind == Kind::movs || kind == Kind::lods || kind == Kind::cmps;
}
constexpr bool uses_destination(Kind kind)
{
    return kind != Kind::lods;
}
constexpr bool compares(Kind kind)
{
    return kind == Kind::scas || kind == Kind::cmps;
}

std::uint64_t address_mask(const Op& op)
{
    return op.address_size == 8 ? ~std::uint64_t{0} : op.address_size == 4 ? 0xffffffff : 0xffff;
}

void set_masked(Core& core, std::uint8_t n, const Op& op, std::uint64_t value)
{
    switch (op.address_size) {
    case 2: set(core, n, static_cast<std::uint16_t>(value)); break;
    case 4: set(core, n, static_cast<std::uint32_t>(value)); break;
    default: core.gpr[n] = value; break;
    }
}

template <Kind kind>
void step(Core& core, const Op& op, std::uint64_t by)
{
    if constexpr (reads_source(kind)) set_masked(core, x86::RSI, op, core.gpr[x86::RSI] + by);
    if constexpr (uses_destination(kind)) set_masked(core, x86::RDI, op, core.gpr[x86::RDI] + by);
}

bool backward(const Core& core)
{
    return (core.state.rflags & x86::rflags::DF) != 0;
}

// One iteration without the counter. False: pending.
template <Kind kind, typename T>
bool iterate(Core& core, const Op& op)
{
    const std::uint64_t mask = address_mask(op);
    std::uint64_t source = 0;
    std::uint64_t destination = 0;
    T from{};
    T to{};
    // CMPS reads the destination first, as processors do: it decides which fault is seen.
    if constexpr (kind == Kind::cmps) {
        if (!core.linear_address(x86::ES, core.gpr[x86::RDI] & mask, sizeof(T), false, destination) ||
            !core.load(destination, to)) {
            return false;
        }
    }
    if constexpr (reads_source(kind)) {
        if (!core.linear_address(op.segment, core.gpr[x86::RSI] & mask, sizeof(T), false, source) ||
            !core.load(source, from)) {
            return false;
        }
    }
    if constexpr (uses_destination(kind) && kind != Kind::cmps) {
        constexpr bool write = !compares(kind);
        if (!core.linear_address(x86::ES, core.gpr[x86::RDI] & mask, sizeof(T), write, destination)) {
            return false;
        }
        if constexpr (kind == Kind::stos) from = get<T>(core, x86::RAX);
        if constexpr (write) {
            if (!core.store(destination, from)) return false;
        } else if (!core.load(destination, to)) {
            return false;
        }
    }
    if constexpr (kind == Kind::lods) set(core, x86::RAX, from);
    if constexpr (kind == Kind::cmps) Cmp::run<T>(from, to, core.flags);
    if constexpr (kind == Kind::scas) Cmp::run<T>(get<T>(core, x86::RAX), to, core.flags);
    step<kind>(core, op, backward(core) ? std::uint64_t{0} - sizeof(T) : sizeof(T));
    return true;
}

// Elements from `offset` on that stay within its page and below the end of the address space.
std::uint64_t elements_in_page(std::uint64_t linear, std::uint64_t offset, std::uint64_t mask,
                               unsigned size)
{
    const std::uint64_t in_page = base::page_size - (linear & base::page_mask);
    const std::uint64_t in_space = mask - offset;  // one less than there is
    return std::min(in_page, in_space) / size;
}

// Several forward iterations of MOVS or STOS over plain RAM at once: how many were done, 0
// when they have to go one by one. Never fails: what would fault is left to iterate().
template <Kind kind, typename T>
std::uint64_t iterate_many(Core& core, const Op& op, std::uint64_t count)
{
    if (count < 4 || backward(core) || core.stepping || !MemoryAccess::fast_tables(core)) return 0;
    const std::uint64_t mask = address_mask(op);
    const std::uint64_t to_offset = core.gpr[x86::RDI] & mask;
    const std::uint64_t from_offset = core.gpr[x86::RSI] & mask;
    std::uint64_t to = 0;
    std::uint64_t from = 0;
    const auto give_up = [&] {
        static_cast<void>(core.pending_flow());
        return std::uint64_t{0};
    };
    if (!core.linear_address(x86::ES, to_offset, sizeof(T), true, to)) return give_up();
    std::uint64_t n = std::min(count, elements_in_page(to, to_offset, mask, sizeof(T)));
    if constexpr (kind == Kind::movs) {
        if (!core.linear_address(op.segment, from_offset, sizeof(T), false, from)) return give_up();
        n = std::min(n, elements_in_page(from, from_offset, mask, sizeof(T)));
    }
    if (n < 2) return 0;
    const auto bytes = static_cast<unsigned>(n * sizeof(T));
    // The whole run within the limits of its segments.
    if (!core.linear_address(x86::ES, to_offset, bytes, true, to)) return give_up();
    if constexpr (kind == Kind::movs) {
        if (!core.linear_address(op.segment, from_offset, bytes, false, from)) return give_up();
        // Reads fault before writes do.
        const std::byte* source = MemoryAccess::read_pointer(core, from, bytes);
        std::byte* destination = source == nullptr ? nullptr : core.write_pointer(to, bytes);
        if (destination == nullptr) return give_up();
        // A copy onto itself repeats a pattern; that is not what memcpy does.
        const auto distance = destination - source;
        if (distance > 0 && distance < static_cast<std::ptrdiff_t>(bytes)) {
            if (distance < static_cast<std::ptrdiff_t>(sizeof(T))) return 0;
            for (std::uint64_t i = 0; i < n; ++i) {
                std::memcpy(destination + i * sizeof(T), source + i * sizeof(T), sizeof(T));
            }
        } else {
            std::memmove(destination, source, bytes);
        }
    } else {
        std::byte* destination = core.write_pointer(to, bytes);
        if (destination == nullptr) return give_up();
        const T value = get<T>(core, x86::RAX);
        if constexpr (sizeof(T) == 1) {
            std::memset(destination, value, bytes);
        } else if (value == 0) {
            std::memset(destination, 0, bytes);
        } else {
            for (std::uint64_t i = 0; i < n; ++i) {
                std::memcpy(destination + i * sizeof(T), &value, sizeof(T));
            }
        }
    }
    step<kind>(core, op, n * sizeof(T));
    return n;
}

template <Kind kind, typename T>
Flow once(Core& core, const Op& op) noexcept
{
    return iterate<kind, T>(core, op) ? Flow::next : core.pending_flow();
}

// Leaves at the same instruction; it counts when it is done.
Flow interrupted(Core& core, const Op& op)
{
    --core.instructions;
    core.state.rip = core.rip_of(op);
    core.end_block();
    return Flow::leave;
}

template <Kind kind, typename T>
Flow repeat(Core& core, const Op& op) noexcept
{
    const std::uint64_t mask = address_mask(op);
    std::uint64_t count = core.gpr[x86::RCX] & mask;
    if (count == 0) {
        // A 32-bit counter is written, its upper half cleared, only when it is counted.
        return Flow::next;
    }
    // A fault in the middle shows the flags from before (SDM volume 2, REP).
    [[maybe_unused]] const std::uint16_t flags = core.flags;
    for (;;) {
        std::uint64_t done = 0;
        if constexpr (kind == Kind::movs || kind == Kind::stos) {
            done = iterate_many<kind, T>(core, op, count);
        }
        if (done == 0) {
            if (!iterate<kind, T>(core, op)) {
                const Flow flow = core.pending_flow();
                if (compares(kind) && flow == Flow::fault) core.flags = flags;
                return flow;
            }
            done = 1;
        }
        count -= done;
        set_masked(core, x86::RCX, op, count);
        if (core.in_device_access()) core.retire_device_log();
        if (count == 0) return Flow::next;
        if constexpr (compares(kind)) {
            const bool zero = (core.flags & packed::ZF) != 0;
            if (zero == op.repne) return Flow::next;
        }
        if (core.stepping || core.ending() ||
            core.attention.load(std::memory_order_relaxed)) {
            return interrupted(core, op);
        }
    }
}

template <Kind kind>
Handler choose_string(Op& op, unsigned size)
{
    // REPNE works as REP where nothing is compared.
    const bool repeated = op.rep || op.repne;
    return by_size(size, [repeated](auto type) -> Handler {
        using T = decltype(type);
        return repeated ? repeat<kind, T> : once<kind, T>;
    });
}

// The source's segment can be overridden; it is in a hidden operand.
void set_source_segment(const Decoded& decoded, Op& op)
{
    op.segment = x86::DS;
    for (const ZydisDecodedOperand& operand : decoded.operands) {
        if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
        const ZydisRegister base = operand.mem.base;
        if (base == ZYDIS_REGISTER_SI || base == ZYDIS_REGISTER_ESI || base == ZYDIS_REGISTER_RSI) {
            op.segment = static_cast<std::uint8_t>(operand.mem.segment - ZYDIS_REGISTER_ES);
        }
    }
}

}  // namespace

Handler lower_string(const Decoded& decoded, Op& op)
{
    const auto choose = [&]<Kind kind>(unsigned size) {
        set_source_segment(decoded, op);
        return choose_string<kind>(op, size);
    };
    if (decoded.instruction.meta.category != ZYDIS_CATEGORY_STRINGOP) return nullptr;
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: return choose.operator()<Kind::movs>(1);
    case ZYDIS_MNEMONIC_MOVSW: return choose.operator()<Kind::movs>(2);
    case ZYDIS_MNEMONIC_MOVSD: return choose.operator()<Kind::movs>(4);
    case ZYDIS_MNEMONIC_MOVSQ: return choose.operator()<Kind::movs>(8);
    case ZYDIS_MNEMONIC_STOSB: return choose.operator()<Kind::stos>(1);
    case ZYDIS_MNEMONIC_STOSW: return choose.operator()<Kind::stos>(2);
    case ZYDIS_MNEMONIC_STOSD: return choose.operator()<Kind::stos>(4);
    case ZYDIS_MNEMONIC_STOSQ: return choose.operator()<Kind::stos>(8);
    case ZYDIS_MNEMONIC_LODSB: return choose.operator()<Kind::lods>(1);
    case ZYDIS_MNEMONIC_LODSW: return choose.operator()<Kind::lods>(2);
    case ZYDIS_MNEMONIC_LODSD: return choose.operator()<Kind::lods>(4);
    case ZYDIS_MNEMONIC_LODSQ: return choose.operator()<Kind::lods>(8);
    case ZYDIS_MNEMONIC_SCASB: return choose.operator()<Kind::scas>(1);
    case ZYDIS_MNEMONIC_SCASW: return choose.operator()<Kind::scas>(2);
    case ZYDIS_MNEMONIC_SCASD: return choose.operator()<Kind::scas>(4);
    case ZYDIS_MNEMONIC_SCASQ: return choose.operator()<Kind::scas>(8);
    case ZYDIS_MNEMONIC_CMPSB: return choose.operator()<Kind::cmps>(1);
    case ZYDIS_MNEMONIC_CMPSW: return choose.operator()<Kind::cmps>(2);
    case ZYDIS_MNEMONIC_CMPSD: return choose.operator()<Kind::cmps>(4);
    case ZYDIS_MNEMONIC_CMPSQ: return choose.operator()<Kind::cmps>(8);
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret
