// For how long the processes that run the vCPU wanted a processor of the host and had none: the
// host scheduler's own account of the worker's threads and of all processes below it. They are
// found by the kernel's lists of children, not by what the worker says.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>

#include "base/fd.h"

namespace doppel::engine::translate {

// Threads: the vCPU thread alone.
class RunDelay {
public:
    // A measurement reads a small file for each process, twenty at most.
    static constexpr std::uint64_t period_ns = 100'000'000;

    explicit RunDelay(pid_t worker) : worker_(worker) {}

    // Total in ns, as of the last measurement; makes one when the last is period_ns old. now_ns: of
    // CLOCK_MONOTONIC. Zero where the host's kernel does not tell.
    std::uint64_t at(std::uint64_t now_ns);

private:
    struct Task {
        base::Fd schedstat;
        std::uint64_t ran_ns = 0, delay_ns = 0;
    };

    void find_tasks();
    void find_tasks_of(pid_t process, unsigned depth);

    pid_t worker_;
    std::map<pid_t, Task> tasks_;
    std::uint64_t measured_ns_ = 0, searched_ns_ = 0;
    std::uint64_t total_ns_ = 0;
};

}  // namespace doppel::engine::translate
