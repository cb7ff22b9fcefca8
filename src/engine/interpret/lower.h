// From a Zydis decode to an executable Op. The decoder fills Op's generic fields
// (length, sizes, ModRM registers, memory operand, prefixes, immediate), then offers the
// instruction to each family in turn; the first that knows it sets op.run and returns true.
// What nobody knows raises #UD.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <span>

#include "engine/interpret/core.h"
#include "engine/interpret/op.h"

namespace doppel::engine::interpret {

struct Decoded {
    const ZydisDecodedInstruction& instruction;
    std::span<const ZydisDecodedOperand> operands;  // visible and hidden
    std::span<const std::uint8_t> bytes;            // instruction.length of them
    CodeSize code_size;
    std::uint64_t rip;                              // of this instruction
};

// integer/: data movement, arithmetic, logic, shifts, bits, strings, stack, near control flow.
bool lower_integer(const Decoded& decoded, Op& op, Core& core);
// system/: segments, far transfers, INT, IRET, SYSCALL, control and debug registers, MSRs,
// CPUID, I/O, HLT, descriptor tables, TLB and cache control, RDTSC, MONITOR.
bool lower_system(const Decoded& decoded, Op& op, Core& core);
// thunk/: FXSAVE/XSAVE families by hand; every other allow-listed unprivileged instruction
// as a native thunk.
bool lower_thunk(const Decoded& decoded, Op& op, Core& core);

Flow raise_ud(Core& core, const Op& op) noexcept;

}  // namespace doppel::engine::interpret
