// The VM's clock as the worker sees it: the VMM's clock by way of the mailbox, without
// system calls.
#pragma once

#include <signal.h>

#include "bus/clock.h"
#include "engine/translate/link/mailbox.h"

namespace doppel::engine::translate {

// Threads: the vCPU thread alone.
class WorkerClock final : public bus::VmClock {
public:
    WorkerClock(const Mailbox& mailbox, std::uint64_t tsc_hz) : mailbox_(mailbox), tsc_hz_(tsc_hz) {}

    [[nodiscard]] std::uint64_t now_ns() const override;
    [[nodiscard]] std::uint64_t tsc() const override;
    [[nodiscard]] std::uint64_t tsc_hz() const override { return tsc_hz_; }
    // Of CLOCK_MONOTONIC. False: the clock stands still, so that deadlines do not come.
    [[nodiscard]] bool host_time(std::uint64_t deadline_ns, timespec& host) const;

    // Unlike other clocks' timers: made by the vCPU thread, and the callback runs in a signal
    // handler on that thread (see signals.h), wherever it is; so it may but set flags.
    std::unique_ptr<bus::Timer> create_timer(std::function<void()> callback) override;

    // The signal handler's part: `info` is of timer_signal().
    static void expired(const siginfo_t& info);

private:
    const Mailbox& mailbox_;
    std::uint64_t tsc_hz_;
};

}  // namespace doppel::engine::translate
