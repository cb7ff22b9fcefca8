// Running translated supervisor code in the worker.
//
// One thread of the process may do so: the one that called prepare_supervisor().
#pragma once

#include <ucontext.h>

#include <cstdint>

#include "base/result.h"
#include "engine/translate/layout.h"
#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate {

extern "C" {
void doppel_enter_supervisor();
extern const char doppel_entry_ready[];
extern const char doppel_entry_end[];
extern const char doppel_supervisor_exit[];
extern const char doppel_supervisor_cancel[];
extern const char doppel_exit_end[];
}

// Installs the handlers for faults of translated code (others go on to the handlers that were
// there), sets GS.base and the engine's part of the context. The context page and the code
// cache are mapped already.
base::Result<void> prepare_supervisor();

// In the handler of a signal that is to get the vCPU out of guest code: makes it leave when the
// thread was in translated code, and not enter when it was on its way there. Sets
// ExecContext::kicked, which the engine clears before it looks at what it is wanted for.
// Async-signal-safe; needs no thread-local storage.
void interrupt_supervisor(ucontext_t& interrupted) noexcept;

[[nodiscard]] inline ExecContext& supervisor()
{
    // SAFETY: the worker maps the page before anything else runs.
    return *reinterpret_cast<ExecContext*>(supervisor_context);
}
[[nodiscard]] inline std::uint64_t supervisor_exit_address()
{
    return reinterpret_cast<std::uint64_t>(doppel_supervisor_exit);
}

}  // namespace doppel::engine::translate
