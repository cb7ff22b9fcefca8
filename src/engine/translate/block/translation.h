// One guest basic block turned into host code: what the translator takes and gives. Pure: no
// guest memory, no code cache, no host state besides the buffer that is written.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "x86/cpuid.h"

namespace doppel::engine::translate {

// What code may do with a data segment that has a base: nothing but by the interpreter, accesses in
// its first 4 KiB (32-bit Windows' FS is that long, or twice), or all.
enum class Reach : std::uint8_t { none, page, whole };

// What a translation depends on besides the bytes and their address. Part of a block's key.
struct Mode {
    // Addresses as they are, no folding: CPL 3, or supervisor code at low addresses
    // (`privileged`); else supervisor code at high addresses.
    bool user = false;
    bool privileged = false;  // user: the code runs at CPL 0: PUSHF shows IF
    bool masked = false;     // user at CPL 3: IF is clear, as PUSHF shows
    // x87 and SSE instructions may run (CR0.EM, CR0.TS, CR4.OSFXSR), and AVX and AVX-512, but where
    // the guest has not turned on their registers (CR4.OSXSAVE, XCR0).
    bool vector = false;
    bool no_avx = false, no_avx512 = false;
    // user: the guest's GS.base is 0. The host's then holds the address of the table of
    // targets, and an instruction with a GS prefix is the interpreter's.
    bool gs_free = false;
    bool bases = false;  // supervisor code at high addresses: CR4.FSGSBASE
    // For lock-step: no way out leads to other translated code, neither direct jumps, which must
    // not be linked, nor the table of targets.
    bool alone = false;
    // 32-bit code with flat CS, DS, ES and SS, in a legacy or a 64-bit guest; see lower/code32.cpp.
    // FS and GS may have any base. User code has `gs_free`.
    bool code32 = false;
    Reach fs = Reach::none, gs = Reach::none;
    bool operator==(const Mode&) const = default;
    [[nodiscard]] unsigned key() const
    {
        return (user ? 1u : 0u) | (alone ? 2u : 0u) | (vector ? 4u : 0u) | (privileged ? 8u : 0u) |
               (masked ? 16u : 0u) | (gs_free ? 32u : 0u) | (bases ? 64u : 0u) |
               (code32 ? 128u : 0u) | static_cast<unsigned>(fs) << 8 | static_cast<unsigned>(gs) << 10 |
               (no_avx ? 1u << 12 : 0u) | (no_avx512 ? 1u << 13 : 0u);
    }
};

struct Source {
    std::uint64_t rip = 0;                  // guest-linear address of bytes[0]
    std::span<const std::uint8_t> bytes;
    // So many of them belong to the page of `rip`: instructions begin only there. The rest, if
    // any, is of the next page: an instruction may go on there, in supervisor code the last of
    // any block, in user code the only one of a block of its own (whose page is not the only
    // one that its address space has to show, so that nobody links to it). The translation's
    // guest_bytes tell.
    std::size_t own_bytes = 0;
    Mode mode;
    // Offsets in the page of `rip` of instructions that are left to the interpreter, since they
    // access devices.
    std::span<const std::uint16_t> devices{};
};

// Where the code goes: `write` is the writable alias of host address `address`. What is seldom run lies
// at offset `cold`, or right behind the rest.
struct CodeSpace {
    std::uint8_t* write = nullptr;
    std::uint64_t address = 0;
    std::size_t capacity = 0;
    std::uint32_t cold = 0;
    std::uint32_t cold_capacity = 0;
};

enum class ExitKind : std::uint8_t {
    direct,     // to `target`, same mode unless `mode` differs: may be linked
    interpret,  // the instruction at `target` is not translated: do it, then go on behind it
    syscall,    // as interpret, these three, and counted by themselves
    sysret,
    iret,
    swapgs,     // one whose new GS.base the host cannot take
    vectors,    // supervisor code: translated with Mode::vector alone
    device,     // as interpret: one of Source::devices
    indirect,   // an indirect branch that may still learn where it goes: to ExecContext::target
    stac,       // as interpret: what lies between it and CLAC is the interpreter's as well
};
inline constexpr unsigned exit_kinds = 10;

// One way out of a block. Each has a stub, which stores the site's number to ExecContext::exit and
// jumps to the common exit. What leads there until the exit is linked:
//
// `patch`  a `jmp rel32` or `jcc rel32` whose displacement lies at this offset of the code. All address
//          spaces that share the code jump to the same block then.
// `cell`   a `jmp [cell]`. Jumps of user code to other pages: each address space has a table of
//          such cells (layout.h), since it may have mapped the other page otherwise, or not at all.
struct Exit {
    static constexpr std::uint32_t no_cell = ~std::uint32_t{0};

    ExitKind kind = ExitKind::interpret;
    Mode mode;                        // of the target
    std::uint64_t target = 0;         // guest RIP
    std::uint32_t patch = 0;          // direct: offset of the rel32; 0: it has none
    std::uint32_t stub = 0;           // offset of the stub
    // Of an indirect branch's exits, see below: where the displacement of its comparison lies.
    std::uint32_t compare = 0;
    std::uint32_t cell = no_cell;     // number among the block's
    bool far = false;                 // learned, and jumps by the cell

    [[nodiscard]] bool by_cell() const { return far || (patch == 0 && cell != no_cell); }
    [[nodiscard]] bool linkable() const { return patch != 0 || cell != no_cell; }
};

// An indirect branch of user code compares its target with those it has learned, flags left
// alone, and goes to their blocks directly:
//
//             ctx.target = rcx
//   compare:  rcx -= first;           jrcxz ──▶ restore rcx, jump to the first one's block
//             rcx -= second - first;  jrcxz ──▶ restore rcx, jump to the second one's block
//             else leave by the exit `indirect`, so that one more is learned
//
// Its exits follow one another: `indirect`, whose `compare` is that address, then one for each
// target, `indirect` too until it is learned and `direct` from then on. Each has a `patch` and a cell:
// where the target is in another page, emit_cell_jump() takes the place of the jump. When the branch
// meets a third target, or one 2 GiB off, the table of targets takes over: emit_table_jump(), no
// longer than the comparisons.
inline constexpr unsigned learned_targets = 2;

// Guest registers whose true value is elsewhere while the host is in [from, to) of the code.
// Where several say something of one register, the last does.
struct Displaced {
    enum class Where : std::uint8_t {
        slot,          // in ExecContext::slot[slot]
        folded,        // the register holds guest value + fold
        moved,         // the true value is the register's plus `operand`
        flags_of_add,  // of RFLAGS, the status flags: those of an ADD, SUB or AND of `operand` to
        flags_of_sub,  // RSP, whose result RSP still is; supervisor code
        flags_of_and,
    };
    std::uint32_t from = 0, to = 0;
    std::uint8_t reg = 0;   // x86::Gpr; not of flags
    Where where = Where::slot;
    std::uint8_t slot = 0;
    std::int32_t operand = 0;
};

// Guest instruction boundaries: at host offset `host` guest RIP is source.rip + guest, and all
// guest state is as the records of Displaced say, else exact (RSP folded, as always in supervisor
// code). What is displaced at a boundary some later instruction of the block overwrites unread.
struct Point {
    std::uint32_t host = 0;
    std::uint16_t guest = 0;
    bool shadow = false;  // behind an STI: no interrupt may be taken here
};

// A place in host code that depends on where that lies, or on the guest's RIP. What they are: see
// move() below.
struct Relocation {
    enum class Kind : std::uint8_t {
        fixed,      // rel32 to an address outside the block
        here,       // low half of a host address in the block
        site,       // number of an exit
        guest,      // 64 bits: a guest address that moves with the block
        guest32,    // 32 bits: the same, of 32-bit code
        cell,       // rel32 to one of the block's cells
        cold,       // rel32 to its cold part
        page_low,   // constants that subtract the guest page's address, see subtract_page()
        page_high,
    };
    std::uint32_t offset;
    Kind kind;
};

struct Translation {
    std::uint32_t size = 0;         // bytes of host code, cold part included
    std::uint32_t hot_size = 0;     // without the stubs
    std::uint32_t cold = 0;         // offset of those
    // Of the guest code translated, that of an exit's own instruction (interpret, syscall, ...)
    // included; 0: nothing could be, see below.
    std::uint32_t guest_bytes = 0;
    // What the indirect branch at its end has done to RSP where it is left.
    std::int32_t branch_rsp = 0;
    std::uint32_t count = 0;        // guest instructions translated natively, the exit's excluded
    // Ascending in `host`; one for each instruction with host code, one for each way out that
    // is not a branch's own. Of instructions at one host offset (NOPs) only the last has one.
    std::vector<Point> points;
    std::vector<Displaced> displaced;
    std::vector<Exit> exits;
    std::uint32_t cells = 0;        // that the exits have
    // User code that goes on in the next page: offset of a jump to the block by a cell. That is where
    // direct jumps of its own page lead, since only the cell knows whether the address space at
    // hand has these two pages. Else 0.
    std::uint32_t by_cell = 0;
    bool movable = false;
    std::vector<Relocation> relocations;  // of a movable one
};

// Where a block's exits and cells begin.
struct Numbers {
    std::uint32_t site = 0;
    std::uint32_t cell = 0;
};

// The exits' numbers are first.site, first.site + 1, ... in the order of Translation::exits.
// False: the code does not fit `space` (nothing is to be used). A block always makes progress:
// when its first instruction cannot be translated, the whole block is one `interpret` exit;
// guest_bytes is then that instruction's length, or 0 when it could not be decoded or does not
// fit `bytes`.
//   common_exit: host address of the common exit (layout.h's code cache is within reach).
bool translate(const Source& source, const x86::CpuidPolicy& cpuid, const CodeSpace& space,
               Numbers first, std::uint64_t common_exit, Translation& result);

// The same guest code at another address, page offset and mode unchanged: its translation is that of
// the one before, moved. A library is at another address in each process that has address
// randomisation.
struct Move {
    std::uint64_t from_rip = 0, to_rip = 0;
    std::uint64_t from_host = 0, to_host = 0;
    std::uint32_t from_cold = 0, to_cold = 0;  // offsets of the cold part
    Numbers from, to;
};
// Whether code at `rip`, if movable, may go there or come from there: constants that have the same
// form everywhere.
bool place_for_move(std::uint64_t rip, Mode mode);
// `code`: a copy of the block's, at where it is written, the cold part at its offset.
void move(std::span<const Relocation> relocations, const Move& how, std::uint8_t* code);

// Code that an indirect branch's target entry leads to: compares the guest RIP in
// ExecContext::target with `rip`, restores RCX from slot[1] and jumps to `body` (the block's first
// byte), else to `miss`. With `body` 0 the block follows directly. Returns the size, or 0 when it
// does not fit.
//
//   indirect branch:  slot[1] = rcx; ctx.target = guest target; ctx.branch = where this is;
//                     ecx = first_index(target); jmp [targets + rcx * 8]
std::uint32_t emit_entry(const CodeSpace& space, bool user, std::uint64_t rip, std::uint64_t body,
                         std::uint64_t miss);
// At `compare` of a branch that learns no more. Returns the size, or 0 when it does not fit.
std::uint32_t emit_table_jump(const CodeSpace& space);
// In place of a learned exit's `jmp rel32`, which has room for it.
void emit_cell_jump(const CodeSpace& space, std::uint32_t cell);
// The `miss` of the above, and what empty table entries lead to: goes where the second table
// says, or exits with exit_no_target. Registers and flags are the guest's either way.
std::uint32_t emit_miss(const CodeSpace& space, bool user, std::uint64_t common_exit);

}  // namespace doppel::engine::translate
