// Random streams of unprivileged instructions: bytes that decode, kept when they may run
// natively in this process without touching host state, with operands steered so that
// most memory accesses land in the little world of case.h.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "bare_machine.h"
#include "x86/cpu_state.h"

namespace doppel::conformance {

using Random = std::mt19937_64;

const ZydisDecoder& decoder_for(Place place);

struct Instruction {
    std::vector<std::uint8_t> bytes;
    bool branch = false;  // last byte is a rel8 that lay_out() fills
};

struct Stream {
    std::vector<Instruction> instructions;
    Place place = Place::user;
    x86::CpuState state;               // initial state with random registers
    std::vector<std::uint8_t> memory;  // initial bytes of the two data pages

    // Machine code; branches lead forward, to a boundary chosen by their position.
    [[nodiscard]] std::vector<std::uint8_t> lay_out() const;
    [[nodiscard]] std::string text() const;  // disassembly, one line each
};

struct Kind {
    Place place = Place::user;
    // Most instructions that address memory come behind others that point their registers at
    // the data: such streams go on for long, where others soon fault.
    bool steady = false;
};
Stream random_stream(Random& random, unsigned max_instructions, const Kind& kind);

}  // namespace doppel::conformance
