// The worker's signals: the kick and the timer, which make the vCPU thread look at what it
// has to do, and faults of our own code, which end the worker with a report.
#pragma once

#include <signal.h>

#include <cstdint>

#include "base/result.h"
#include "engine/translate/link/mailbox.h"

namespace doppel::engine::translate {

enum class Wake : std::uint8_t {
    outside,  // a kick or a timer
    summons,  // siblings: notes about code are to be taken
};

// What a kick or a timer does besides the timer's own callback. Runs in the handler, on the
// alternate stack, wherever the thread was: no locks, no memory allocation, and no
// thread-local storage, since FS.base may be the guest's.
using WakeHandler = void (*)(void* argument, ucontext_t& context, Wake why);

// Of the calling thread: its alternate stack, on which all of our handlers run.
base::Result<void> use_signal_stack();
// Faults and aborts from now on leave a line in the mailbox before they end the process.
// Before anybody else's handlers, which go on to this one for what is not theirs.
base::Result<void> report_crashes(Mailbox& mailbox);
base::Result<void> handle_wakes(WakeHandler handler, void* argument);

}  // namespace doppel::engine::translate
