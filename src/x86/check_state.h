// For states that come from where we do not trust: another process, a file.
#pragma once

#include "base/result.h"
#include "x86/cpu_state.h"
#include "x86/cpuid.h"

namespace doppel::x86 {

// Whether a processor of this CPUID could be in that state, as far as an engine has to rely on
// it: control registers and EFER (SDM volume 3 sections 2.2 and 2.5), RFLAGS, XCR0, the XSAVE
// area's header and MXCSR (volume 1 sections 13.4 and 10.2.3), activity. Everything else may
// hold any value. The error says what is impossible; it is an I/O error.
base::Result<void> check_state(const CpuState& state, const CpuidPolicy& cpuid);

}  // namespace doppel::x86
