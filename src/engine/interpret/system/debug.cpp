// Debug registers and single-stepping. SDM volume 3 sections 17.2 and 17.3.
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret {

namespace {

using namespace privileged;

enum BreakpointKind : unsigned { on_execute = 0, on_write = 1, on_io = 2, on_access = 3 };

struct Breakpoint {
    std::uint64_t address = 0;
    unsigned kind = 0;
    unsigned size = 1;
};

// Breakpoint n of DR7, enabled or not.
Breakpoint breakpoint(const x86::CpuState& state, unsigned n)
{
    static constexpr std::array<unsigned, 4> sizes{1, 2, 8, 4};
    const auto control = static_cast<unsigned>(state.dr7 >> (16 + 4 * n)) & 0xf;
    Breakpoint result;
    result.kind = control & 3;
    result.size = sizes[control >> 2];
    result.address = state.dr[n] & ~std::uint64_t{result.size - 1};
    return result;
}

bool enabled(const x86::CpuState& state, unsigned n) { return (state.dr7 >> (2 * n) & 3) != 0; }

bool overlaps(const Breakpoint& b, std::uint64_t start, unsigned size)
{
    return start < b.address + b.size && b.address < start + size;
}

// All matching breakpoints are reported, the enabled ones make the exception.
template <typename Match>
std::uint64_t hits(const x86::CpuState& state, Match match)
{
    std::uint64_t bits = 0;
    bool due = false;
    for (unsigned n = 0; n < 4; ++n) {
        if (!match(breakpoint(state, n))) continue;
        bits |= std::uint64_t{1} << n;
        due = due || enabled(state, n);
    }
    return due ? bits : 0;
}

Fault debug_fault(std::uint64_t dr6_bits)
{
    Fault fault = x86::make_fault(Vector::DB);
    fault.address = dr6_bits;
    return fault;
}

}  // namespace

bool System::debugging() const
{
    const auto& state = core_.state;
    return (state.rflags & rflags::TF) != 0 || (state.dr7 & x86::dr7::ENABLE_MASK) != 0 ||
           pending_dr6_ != 0;
}

bool System::instruction_breakpoint()
{
    const auto& state = core_.state;
    if (state.rip == no_debug_before_) return false;
    if ((state.dr7 & x86::dr7::ENABLE_MASK) == 0 || (state.rflags & rflags::RF) != 0) return false;
    std::uint64_t linear = state.rip;
    if (!code64(core_)) linear = (linear + state.segments[x86::CS].base) & 0xffffffff;
    const std::uint64_t bits = hits(state, [&](const Breakpoint& b) {
        return b.kind == on_execute && b.address == linear;
    });
    if (bits == 0) return false;
    core_.fault = debug_fault(bits);
    return true;
}

bool System::debug_trap(bool tf_before)
{
    // After MOV SS everything waits for the end of the next instruction.
    if (core_.state.rip == no_debug_before_ && core_.state.events.interrupt_shadow) return false;
    no_debug_before_ = nowhere;
    const std::uint64_t bits = pending_dr6_ | (tf_before ? x86::dr6::BS : 0);
    pending_dr6_ = 0;
    if (bits == 0) return false;
    core_.fault = debug_fault(bits);
    return true;
}

void System::note_data_access(std::uint64_t linear, unsigned size, bool write)
{
    pending_dr6_ |= hits(core_.state, [&](const Breakpoint& b) {
        const bool kind = b.kind == on_access || (b.kind == on_write && write);
        return kind && overlaps(b, linear, size);
    });
}

void System::note_io_access(std::uint16_t port, unsigned size)
{
    if ((core_.state.cr4 & cr4::DE) == 0) return;
    pending_dr6_ |= hits(core_.state, [&](const Breakpoint& b) {
        return b.kind == on_io && overlaps(b, port, size);
    });
}

}  // namespace doppel::engine::interpret
