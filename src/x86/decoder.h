// Instructions as text, for logs, error reports and test failures, and their length and
// validity. Execution has its own decode path on Zydis; this one is for people.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "x86/cpu_state.h"

namespace doppel::x86 {

enum class CodeWidth : std::uint8_t { bits16, bits32, bits64 };

// What CS, CR0, EFER and RFLAGS.VM make of the bytes at CS:RIP.
CodeWidth code_width(const CpuState& state);

// Length of the instruction at the front of `bytes`: 0 when it is not one, or truncated.
unsigned instruction_length(std::span<const std::uint8_t> bytes, CodeWidth width) noexcept;

// "lock cmpxchg16b [rdi]" in Intel syntax, addresses absolute as seen from
// `rip`; the bytes in hex when they are not an instruction, "(no bytes)" for none.
std::string disassemble(std::span<const std::uint8_t> bytes, CodeWidth width, std::uint64_t rip);

}  // namespace doppel::x86
