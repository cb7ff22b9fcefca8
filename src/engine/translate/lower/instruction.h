// A decoded guest instruction, reduced to what translation asks of it.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <span>

#include "engine/translate/block/translation.h"
#include "engine/translate/emit/code.h"
#include "x86/cpuid.h"

namespace doppel::engine::translate {

// How it is translated; see lower.h. What is not recognised is `interpret`.
enum class Kind : std::uint8_t {
    interpret,
    plain,  // copied, its memory operand adjusted
    nothing,  // no effect at all
    lea,
    string,
    pushf,
    popf,
    leave,
    push, pop, push_all, pop_all,  // of 32-bit code; in 64-bit code plain, or undefined
    cli,
    sti,
    clac,
    read_cr2,
    read_selector,
    read_fs_base,
    read_gs_base,
    write_fs_base,
    write_gs_base,
    swapgs,
    rdtsc, rdtscp, serialize,
    // These end a block.
    jump,
    call,
    conditional,
    loop,
    jump_indirect,
    call_indirect,
    ret,
    syscall,
    sysret,
    iret,
    vectors,  // supervisor code: translated with Mode::vector alone
    device,   // one of Source::devices
    stac,
};

inline bool ends_block(Kind kind)
{
    return kind == Kind::interpret || kind >= Kind::jump;
}

inline bool is_direct_branch(Kind kind)
{
    return kind == Kind::jump || kind == Kind::call || kind == Kind::conditional ||
           kind == Kind::loop;
}

// FS or GS, the segments that have a base in 64-bit code.
enum class Segment : std::uint8_t { none, fs, gs };

struct Instruction {
    const std::uint8_t* bytes = nullptr;
    std::uint16_t offset = 0;  // from the beginning of the block
    std::uint8_t length = 0;
    Kind kind = Kind::interpret;
    ZydisMnemonic mnemonic = ZYDIS_MNEMONIC_INVALID;
    ZydisInstructionEncoding encoding = ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    std::uint8_t opcode = 0;       // its last byte
    std::uint8_t opcode_at = 0;    // behind the legacy prefixes and REX
    std::uint8_t modrm_at = 0;     // 0: has none
    std::uint8_t behind_operand = 0;  // behind ModRM, SIB and displacement
    std::uint8_t operand_width = 0;

    // Prefixes that have a meaning; others are dropped.
    std::uint8_t rex = 0;
    std::uint8_t repeat = 0;  // 0xf2, 0xf3 or 0
    bool lock = false;
    bool operand_size = false;  // 0x66

    Segment segment = Segment::none;  // override
    bool memory = false;      // an explicit memory operand
    bool goes_on = false;     // conditional: the block goes on where it is not taken
    bool far_index = false;   // its index is a vector register
    std::uint8_t base = no_register, index = no_register;
    std::uint64_t address = 0;  // base == rip_register
    std::int64_t displacement = 0;

    // RSP as an explicit register operand.
    bool rsp_operand = false, rsp_read = false, rsp_written = false;
    bool rsp_in_reg = false, rsp_in_rm = false;  // in which fields of ModRM
    bool rsp_elsewhere = false;                  // somewhere else
    bool high_byte = false;  // AH, CH, DH or BH is an operand: no REX may be added

    std::uint64_t immediate = 0;  // the first; of direct branches: the target
    // General registers: read (or partly written), and wholly overwritten.
    std::uint16_t reads = 0, overwrites = 0;
    bool reads_flags = false, changes_flags = false;
    // Status flags, as RFLAGS has them: given a value by the manual, or left without one.
    std::uint16_t defines_flags = 0, undefines_flags = 0;

    [[nodiscard]] unsigned modrm() const { return bytes[modrm_at]; }
    [[nodiscard]] unsigned modrm_reg() const { return ((modrm() >> 3) & 7) | ((rex & 4u) << 1); }
    [[nodiscard]] unsigned modrm_rm() const { return (modrm() & 7) | ((rex & 1u) << 3); }
    [[nodiscard]] bool uses(unsigned reg) const
    {
        return (((reads | overwrites) >> reg) & 1) != 0;
    }
};

enum class Decoding : std::uint8_t {
    decoded,
    incomplete,  // goes on behind the bytes given
    undefined,
};

// `bytes` stay where they are as long as the instruction is used.
Decoding decode(std::span<const std::uint8_t> bytes, std::uint64_t rip, const Mode& mode,
                const x86::CpuidPolicy& cpuid, Instruction& instruction);

}  // namespace doppel::engine::translate
