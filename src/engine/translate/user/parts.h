// The user program's parts. Its areas are where layout.h says, in every user process.
//
//   zygote.cpp   starts, clears its address space, forks
//   process.cpp  a forked process: its mappings, signal handlers and seccomp filter
//   program.cpp  the loop        entry.S  into guest code and out     signals.cpp  handlers
#pragma once

#include <cstdint>

#include "engine/translate/layout.h"
#include "engine/translate/link/user_link.h"

namespace doppel::engine::translate::program {

inline ExecContext& context() { return *reinterpret_cast<ExecContext*>(user_context); }
inline UserReport& report_area()
{
    return *reinterpret_cast<UserReport*>(user_context + report_offset);
}
inline const UserCommand& command() { return *reinterpret_cast<const UserCommand*>(user_command); }

// Reports `turn`, then serves the turns that follow.
[[noreturn]] void serve(std::uint32_t turn);
// The program itself faulted.
[[noreturn]] void crash(std::uint64_t vector);

// What a forked process does: everything up to its end. parent: the zygote's pid.
[[noreturn]] void run_process(unsigned slot, std::int32_t parent);
void install_handlers();

// Hidden, or their addresses would come from a table in writable memory.
#pragma GCC visibility push(hidden)
extern "C" {
// entry.S
[[noreturn]] void common_exit();
[[noreturn]] void enter_guest(std::uint32_t turn);
[[noreturn]] void cancel_entry();
void entry_end();
void signal_return();
extern char signal_stack[];
// Called by entry.S.
[[noreturn]] void zygote();
[[noreturn]] void left_guest();
[[noreturn]] void cancelled();
}
#pragma GCC visibility pop

}  // namespace doppel::engine::translate::program
