// Which instructions may be run on the host CPU on behalf of the guest. An allow-list by
// ISA set: what is not named cannot slip through, so nothing that reads or changes state
// of the host (WRPKRU, XRSTOR, RDFSBASE, CPUID, XGETBV, RDPID, TPAUSE, ...) ever runs.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>

#include "x86/cpuid.h"

namespace doppel::engine::interpret::thunk {

enum class Verdict : std::uint8_t {
    forbidden,  // #UD
    native,     // may run as a native thunk
    by_hand,    // offered to the guest, but must be written out (it touches host state,
                // or memory in a way that a bounce buffer cannot show)
};

// What the guest is not offered, or the host lacks, is forbidden. Pure.
Verdict judge(const ZydisDecodedInstruction& instruction, const x86::CpuidPolicy& cpuid);

// The CPU has AVX-512 with BW and the operating system keeps its registers. Without it no
// thunk may touch a ZMM or mask register.
bool host_has_avx512();

}  // namespace doppel::engine::interpret::thunk
