// Segment and gate descriptors, selectors and task-state segments as they lie in guest
// memory. Pure conversions: who checks what, and in which order, is the caller's.
// SDM volume 3 sections 3.4, 5.8, 6.11, 6.14, 7.2 and 7.7.
#pragma once

#include <cstdint>

#include "x86/cpu_state.h"

namespace doppel::x86 {

// ---- selectors (SDM 3.4.2) ------------------------------------------------------------

constexpr unsigned selector_rpl(std::uint16_t selector) { return selector & 3u; }
constexpr bool selector_in_ldt(std::uint16_t selector) { return (selector & 4u) != 0; }
constexpr bool selector_null(std::uint16_t selector) { return (selector & ~3u) == 0; }
// Byte offset of the descriptor in its table.
constexpr std::uint32_t selector_offset(std::uint16_t selector) { return selector & 0xfff8u; }
// Error code that names the selector: RPL replaced by EXT (0 here) and IDT (0).
constexpr std::uint32_t selector_error(std::uint16_t selector) { return selector & 0xfffcu; }

// ---- types (SDM tables 3-1 and 3-2) ---------------------------------------------------

// Type field of code and data segments (S = 1).
namespace segment_type {
inline constexpr unsigned ACCESSED = 1, WRITABLE = 2, READABLE = 2, EXPAND_DOWN = 4, CONFORMING = 4,
    CODE = 8;
}

// Type field of system segments and gates (S = 0). In IA-32e mode the 16-bit ones are
// reserved and the "32" ones are the 64-bit ones.
enum class SystemType : std::uint8_t {
    TSS16_AVAILABLE = 1,
    LDT = 2,
    TSS16_BUSY = 3,
    CALL_GATE16 = 4,
    TASK_GATE = 5,
    INTERRUPT_GATE16 = 6,
    TRAP_GATE16 = 7,
    TSS32_AVAILABLE = 9,
    TSS32_BUSY = 11,
    CALL_GATE32 = 12,
    INTERRUPT_GATE32 = 14,
    TRAP_GATE32 = 15,
};

inline bool is_code(const Segment& s)
{
    return s.code_or_data() && (s.type() & segment_type::CODE) != 0;
}
inline bool is_data(const Segment& s)
{
    return s.code_or_data() && (s.type() & segment_type::CODE) == 0;
}
inline bool is_conforming(const Segment& s)
{
    return is_code(s) && (s.type() & segment_type::CONFORMING) != 0;
}
inline bool is_readable(const Segment& s)
{
    return is_data(s) || (is_code(s) && (s.type() & segment_type::READABLE) != 0);
}
inline bool is_writable(const Segment& s)
{
    return is_data(s) && (s.type() & segment_type::WRITABLE) != 0;
}
inline bool is_expand_down(const Segment& s)
{
    return is_data(s) && (s.type() & segment_type::EXPAND_DOWN) != 0;
}
// RET and IRET to `cpl` leave the segment in DS, ES, FS or GS; else that becomes null (SDM volume 2).
inline bool survives_return(const Segment& s, unsigned cpl)
{
    return s.unusable() || is_conforming(s) || s.dpl() >= cpl;
}
inline bool is_system(const Segment& s, SystemType type)
{
    return !s.code_or_data() && s.type() == static_cast<unsigned>(type);
}

// ---- raw descriptors ------------------------------------------------------------------

// Bits of the low quadword that are written back to memory.
inline constexpr std::uint64_t descriptor_accessed = std::uint64_t{1} << 40;
inline constexpr std::uint64_t descriptor_tss_busy = std::uint64_t{1} << 41;

// 8-byte descriptor. The limit is scaled by G; attributes are in VMX layout.
Segment decode_segment(std::uint16_t selector, std::uint64_t raw);
// 16-byte LDT and TSS descriptor of IA-32e mode: `high` is the second quadword, whose low
// half is base bits 63:32. high_type_valid: its type field (bits 44:40 must be zero).
Segment decode_segment16(std::uint16_t selector, std::uint64_t low, std::uint64_t high);
constexpr bool high_type_valid(std::uint64_t high) { return ((high >> 40) & 0x1f) == 0; }

// Inverse of decode_segment. A limit that G cannot express is rounded down to pages.
std::uint64_t encode_segment(const Segment& segment);
// Second quadword of a 16-byte descriptor.
constexpr std::uint64_t encode_segment_high(const Segment& segment) { return segment.base >> 32; }

// What a null selector loads: unusable, selector kept. DPL is given because SS.DPL is CPL.
Segment null_segment(std::uint16_t selector, unsigned dpl = 0);
// Real and virtual-8086 mode: base = selector << 4, limit and attributes kept by real mode
// loads (unreal mode), forced by virtual-8086 ones (type 3, DPL 3, limit FFFF).
Segment vm86_segment(std::uint16_t selector);

// ---- gates (SDM 5.8.3, 6.11, 6.14.1) --------------------------------------------------

struct Gate {
    std::uint8_t type = 0;  // raw type field, see SystemType
    bool code_or_data = false;  // S: a gate has 0
    bool present = false;
    std::uint8_t dpl = 0;
    std::uint16_t selector = 0;
    std::uint64_t offset = 0;         // 16, 32 or 64 bits, by type
    std::uint8_t parameter_count = 0; // call gates of protected mode
    std::uint8_t ist = 0;             // IDT gates of IA-32e mode

    bool operator==(const Gate&) const = default;
    [[nodiscard]] bool is(SystemType t) const
    {
        return !code_or_data && type == static_cast<std::uint8_t>(t);
    }
    // Bit 3 of the type: 32-bit (or 64-bit) rather than 16-bit.
    [[nodiscard]] bool wide() const { return (type & 8) != 0; }
};

// 8-byte gate: 16-bit types have 16-bit offsets.
Gate decode_gate(std::uint64_t raw);
// 16-byte gate of IA-32e mode.
Gate decode_gate16(std::uint64_t low, std::uint64_t high);
// Low quadword; the high one of a 16-byte gate is offset >> 32.
std::uint64_t encode_gate(const Gate& gate);

// ---- task-state segments: byte offsets (SDM figures 7-2, 7-10, 7-11) ------------------

namespace tss32 {
inline constexpr unsigned LINK = 0x00, ESP0 = 0x04, SS0 = 0x08, CR3 = 0x1c, EIP = 0x20, EFLAGS = 0x24,
    EAX = 0x28,  // then ECX EDX EBX ESP EBP ESI EDI: the order of Gpr
    ES = 0x48,   // then CS SS DS FS GS: the order of SegmentRegister, 4 bytes each
    LDT = 0x60, TRAP = 0x64, IO_MAP_BASE = 0x66, MINIMUM_LIMIT = 0x67;
// SSn:ESPn pairs are 8 bytes apart.
constexpr unsigned esp(unsigned ring) { return ESP0 + 8 * ring; }
constexpr unsigned ss(unsigned ring) { return SS0 + 8 * ring; }
}  // namespace tss32

namespace tss16 {
inline constexpr unsigned LINK = 0x00, SP0 = 0x02, SS0 = 0x04, IP = 0x0e, FLAGS = 0x10,
    AX = 0x12,  // then CX DX BX SP BP SI DI
    ES = 0x22,  // then CS SS DS, 2 bytes each
    LDT = 0x2a, MINIMUM_LIMIT = 0x2b;
constexpr unsigned sp(unsigned ring) { return SP0 + 4 * ring; }
constexpr unsigned ss(unsigned ring) { return SS0 + 4 * ring; }
}  // namespace tss16

namespace tss64 {
inline constexpr unsigned RSP0 = 0x04, IST1 = 0x24, IO_MAP_BASE = 0x66, MINIMUM_LIMIT = 0x67;
constexpr unsigned rsp(unsigned ring) { return RSP0 + 8 * ring; }
constexpr unsigned ist(unsigned index) { return IST1 + 8 * (index - 1); }  // index 1-7
}  // namespace tss64

}  // namespace doppel::x86
