// What SYSCALL, SYSENTER and their ways back make of CS and SS: flat segments, without a look at
// any descriptor. SDM volume 2; volume 3 sections 5.8.7 and 5.8.8. Who checks what is the
// caller's.
#pragma once

#include "x86/cpu_state.h"

namespace doppel::x86 {

// CS and SS for code of privilege `cpl`; 64-bit code when `wide`, else 32-bit.
void load_flat_segments(CpuState& state, std::uint64_t cs, std::uint64_t ss, unsigned cpl,
                        bool wide);

// By IA32_STAR: to CPL 0 in 64-bit mode, and back to CPL 3.
void load_syscall_segments(CpuState& state);
void load_sysret_segments(CpuState& state, bool wide);

// RFLAGS behind them.
constexpr std::uint64_t syscall_flags(const CpuState& state, std::uint64_t flags)
{
    return (flags & ~(state.fmask | rflags::RF)) | rflags::RESERVED1;
}
constexpr std::uint64_t sysret_flags(std::uint64_t r11)
{
    constexpr std::uint64_t taken = 0x3c7fd7;
    return (r11 & taken) | rflags::RESERVED1;
}

}  // namespace doppel::x86
