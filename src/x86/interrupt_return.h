// IRETQ of 64-bit supervisor code where it has nothing unusual to do, to such code or to 64-bit
// user code, by the raw frame and descriptors. SDM volume 2, IRET. What is not said here to be
// usual may be legal still, or fault.
#pragma once

#include <optional>

#include "x86/cpu_state.h"
#include "x86/descriptors.h"

namespace doppel::x86 {

// As it lies at RSP.
struct InterruptFrame {
    std::uint64_t rip = 0, cs = 0, rflags = 0, rsp = 0, ss = 0;
};

// RFLAGS behind it, by those of the frame. Nothing: it sets some that change how code runs.
std::optional<std::uint64_t> usual_return_flags(std::uint64_t now, std::uint64_t frame);

// What CS becomes: code of 64 bits with the selector's RPL. Nothing: another kind of segment, not
// there, of other rights, not accessed before.
std::optional<Segment> usual_return_code(std::uint16_t selector, std::uint64_t raw);
// Likewise SS, for the privilege that CS has then. `raw` is of no meaning for a null selector.
std::optional<Segment> usual_return_stack(std::uint16_t selector, std::uint64_t raw, unsigned cpl);

}  // namespace doppel::x86
