// One decoded guest instruction, ready to execute.
#pragma once

#include <cstdint>

namespace doppel::engine::interpret {

class Core;
struct Op;
struct Block;

// What a handler tells the run loop.
enum class Flow : std::uint32_t {
    next,   // done; the next op of the block follows
    leave,  // done; core.state.rip already holds the next instruction: look the block up anew
    fault,  // not done: core.fault is to be delivered at this instruction
    exit,   // not done: core.exit is to be returned; the instruction restarts afterwards
};

using Handler = Flow (*)(Core& core, const Op& op) noexcept;

inline constexpr std::uint8_t reg_none = 16;   // core.state.gpr has 16 registers; index 16 reads as 0
inline constexpr std::uint8_t segment_none = 6;

struct Op {
    Handler run = nullptr;
    std::uint64_t immediate = 0;     // sign-extended; branch target (absolute RIP) for relative branches
    std::int64_t displacement = 0;   // absolute address for RIP-relative operands (then no base)
    std::uint16_t offset = 0;        // of the instruction in its block
    std::uint8_t length = 0;
    std::uint8_t operand_size = 4;   // bytes: 1, 2, 4, 8
    std::uint8_t address_size = 8;   // bytes: 2, 4, 8
    std::uint8_t reg = reg_none;     // ModRM.reg operand (GPR 0-15; 8-bit: 16-19 mean AH CH DH BH)
    std::uint8_t rm = reg_none;      // ModRM.rm or opcode register operand, same coding
    bool memory = false;             // rm is a memory operand
    std::uint8_t base = reg_none;
    std::uint8_t index = reg_none;
    std::uint8_t scale_shift = 0;
    std::uint8_t segment = segment_none;  // of the memory operand (x86::SegmentRegister), defaults applied
    bool segment_override = false;
    bool lock = false;
    bool rep = false;
    bool repne = false;
    bool vectors = false;            // works on x87 or vector registers, or on XCR0
    std::uint8_t extra = 0;          // condition code, sub-operation, ...: the handler's own
    // For counting: the opcode; from 256 on: behind 0F (of 0F38 and 0F3A, VEX and EVEX their
    // first byte of opcode).
    std::uint16_t opcode = 0;
    void* data = nullptr;            // native thunk, ...: owned by whoever made the handler
    // Where this op last left for: the run loop's own.
    mutable Block* link = nullptr;
};

}  // namespace doppel::engine::interpret
