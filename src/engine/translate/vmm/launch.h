// Starting the worker process, and knowing when it is gone.
//
// The worker needs an address space with nothing of its own where guest memory will be shown
// (layout.h). So: no randomisation, and a stack limit so large that the kernel begins its
// mappings that far below the end. Both are set in the child, before it becomes the worker.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "engine/translate/vmm/doorbells.h"
#include "memory/guest_memory.h"

namespace doppel::engine::translate {

// Why no worker can be started on this host or by this build; empty: nothing known.
std::string launch_problem();

class WorkerProcess {
public:
    // The worker gets copies of all descriptors. Any thread; the child of a process with
    // threads, it does nothing but system calls before it becomes another program.
    static base::Result<std::unique_ptr<WorkerProcess>> start(int arena, int commons,
                                                              const memory::GuestMemory& memory,
                                                              const DoorbellEvents& doorbells);
    // Kills it, and with it whatever it started.
    ~WorkerProcess();
    WorkerProcess(const WorkerProcess&) = delete;
    WorkerProcess& operator=(const WorkerProcess&) = delete;

    [[nodiscard]] pid_t pid() const { return pid_; }
    // How the process ended; nothing: it has not. Any thread.
    [[nodiscard]] std::optional<std::string> death() const;
    // Sends a signal to one of its threads. Any thread; no effect after its death.
    void signal(pid_t thread, int number) const;

private:
    WorkerProcess(pid_t pid, base::Fd lifeline) : pid_(pid), lifeline_(std::move(lifeline)) {}

    pid_t pid_;  // not reaped before the destructor: nobody else gets the number
    base::Fd lifeline_;
};

}  // namespace doppel::engine::translate
