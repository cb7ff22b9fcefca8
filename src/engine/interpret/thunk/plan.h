// What an instruction uses, and its bytes as they will run on the host: the same
// instruction in 64-bit code, its memory operand replaced by [register], RSP by another
// register (a thunk keeps the host's stack pointer).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "engine/interpret/lower.h"
#include "engine/interpret/thunk/thunk.h"

namespace doppel::engine::interpret::thunk {

struct Plan {
    std::array<std::uint8_t, 16> bytes{};
    std::uint8_t length = 0;

    std::uint32_t gpr_used = 0, gpr_written = 0;   // guest register numbers
    std::uint8_t rsp_as = 0;                       // host register that stands for RSP
    std::uint8_t core_register = 0, memory_register = 0;

    std::array<std::uint8_t, 32> vector_width{};   // bytes to load; 0: not loaded
    std::uint32_t vector_written = 0;
    std::uint8_t mask_used = 0, mask_written = 0;
    bool vector_encoded = false;                   // VEX or EVEX on vector registers
    bool flags = false, mxcsr = false, x87 = false;

    Unit unit = Unit::general;
    bool waits = false;                            // reports pending x87 exceptions
    MemoryOperand memory;

    // Everything that decides the routine: equal keys, equal thunks.
    [[nodiscard]] std::string key() const;
};

// No value: not something that a thunk can do (an operand kind outside the allow-list, an
// encoding that means something else in 64-bit code); the instruction is #UD.
std::optional<Plan> make_plan(const Decoded& decoded);

// Exposed for gathers and other instructions written out: register class helpers.
[[nodiscard]] int vector_number(ZydisRegister reg);   // -1: not a vector register
[[nodiscard]] int gpr_number(ZydisRegister reg);      // of the enclosing 64-bit register, or -1
[[nodiscard]] Unit unit_of(const Decoded& decoded);

}  // namespace doppel::engine::interpret::thunk
