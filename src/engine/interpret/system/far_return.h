// What RET far and IRET share: the checks of the segments returned to.
#pragma once

#include "engine/interpret/system/helpers.h"

namespace doppel::engine::interpret::privileged {

struct FarReturn {
    std::uint16_t selector = 0;
    std::uint64_t rip = 0;
    std::uint16_t ss_selector = 0;
    std::uint64_t rsp = 0;
    Descriptor code;
    Segment stack;
    unsigned cpl = 0;  // after the return
    bool code64 = false;
};

// Reads and checks CS; fills code, cpl and code64. Protected mode.
Flow check_return_code(Core& core, FarReturn& back);
// Reads and checks SS for the new privilege; fills stack.
Flow check_return_stack(Core& core, FarReturn& back);
// Everything is checked: CS:RIP, SS:RSP + release, data segments that outer code may not see.
Flow commit_outer_return(Core& core, FarReturn& back, std::uint64_t release);

}  // namespace doppel::engine::interpret::privileged
