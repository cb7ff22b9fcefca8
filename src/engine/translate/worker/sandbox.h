// What the worker may still ask of the kernel once it runs a guest.
#pragma once

#include "base/result.h"

namespace doppel::engine::translate {

// For all threads of the process and for good: memory, futexes, timers and signals of its own,
// and no more files, sockets, processes or programs. Anything else kills the process, which
// its VMM sees.
base::Result<void> enter_sandbox();

}  // namespace doppel::engine::translate
