// One conformance case: machine code, the state it starts from, and what must hold at
// its end. Written as assembly with directives in cases/*.asm; assemble.py makes the table.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace doppel::conformance {

enum class Mode : std::uint8_t { real16, prot16, prot32, user32, vm86, compat32, kernel64, user64 };

// Where a case may run. on_emulated_kvm: also where KVM is a software emulator.
// on_translate_high: supervisor code once more with RIP and RSP in the upper half.
inline constexpr unsigned on_native = 1, on_interpret = 2, on_kvm = 4, on_emulated_kvm = 8,
    on_translate = 16, on_translate_high = 32;

enum class Paging : std::uint8_t { none, bits32, pae, level4 };

// A register by name: GPRs by their 64-bit name, "rip", "rflags", "cr0".."cr4", "efer",
// "es".."gs" (selectors), "es.base".., "xmm0l", "xmm0h", ..., "dr6", "dr7", MSR fields.
struct RegisterValue {
    std::string_view name;
    std::uint64_t value;
};

struct MemoryValue {
    std::uint64_t address;  // guest-linear, identity-mapped
    std::span<const std::uint8_t> bytes;
};

struct ExpectedFault {
    std::uint8_t vector;
    std::optional<std::uint32_t> error_code;
    std::optional<std::uint64_t> cr2;
    std::optional<std::uint64_t> rip;
};

struct Case {
    std::string_view name;
    std::string_view file;
    unsigned line;
    Mode mode;
    Paging paging;
    bool high;       // assembled for, and begun in, the upper half: see layout::high
    bool seen_high;  // the pages are there too
    unsigned where;
    std::span<const std::uint8_t> code;  // without the terminating OUT
    std::span<const RegisterValue> initial_registers;
    std::span<const MemoryValue> initial_memory;
    std::span<const RegisterValue> expected_registers;
    std::uint64_t flags_set;
    std::uint64_t flags_clear;
    std::span<const MemoryValue> expected_memory;
    std::optional<ExpectedFault> fault;  // absent: the case runs to its end
};

std::span<const Case> all_cases();

// The little world every case lives in; physical = linear below 2 MiB.
namespace layout {
inline constexpr std::uint64_t
    pml4 = 0x1000, pdpt = 0x2000, page_directory = 0x3000, page_table = 0x4000,
    pae_pdpt = 0x5000, directory32 = 0x6000, table32 = 0x7000,
    gdt = 0x8000, idt = 0x9000, tss = 0xa000, stubs = 0xb000, ring0_stack = 0xd000,
    tss2 = 0xe000,  // a second task, for task switches
    ldt = 0xf000,
    code = 0x10000,       // 2 pages, user, executable, writable
    data = 0x20000,       // 2 pages, user, read-write, not executable in 4-level paging
    hole = 0x22000,       // not present
    read_only = 0x23000,  // user, read-only
    supervisor = 0x24000, // supervisor, read-write
    scratch = 0x25000,    // user page, writable, free for cases that edit its entry
    stack = 0x30800,      // initial stack pointer; page 0x30000 is user read-write
    memory_size = 4u << 20;
// Where the same pages are seen once more, for cases that run there.
inline constexpr std::uint64_t high = 0xffffffff80000000;
constexpr bool is_high(std::uint64_t address) { return address - high < memory_size; }
constexpr std::uint64_t without_high(std::uint64_t address)
{
    return is_high(address) ? address - high : address;
}
}  // namespace layout

}  // namespace doppel::conformance
