// Runs user-mode code on the host processor itself, in the same little world: memory at
// the same addresses, every register preset, and whatever ends it caught.
//
// How: a trap signal hands its handler a complete register frame; the handler replaces it
// by the case's state and returns into the code. The code ends in OUT, which faults; that
// handler copies the frame out and returns into the caller. Both moves carry the whole
// extended state, since the kernel saves and restores it with the frame.
//
// One at a time per process (fixed addresses, process-wide handlers).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "bare_machine.h"

namespace doppel::conformance {

class Native {
public:
    static base::Result<std::unique_ptr<Native>> create();
    ~Native();

    // Refills code, data and stack; state: GPRs, RIP, RFLAGS and extended state are used.
    Outcome run(std::span<const std::uint8_t> code, const x86::CpuState& state,
                std::span<const MemoryValue> memory);
    Outcome run(const Case& c);

    static bool read_memory(std::uint64_t address, std::span<std::byte> to);

private:
    Native() = default;
};

}  // namespace doppel::conformance
