#include "engine/translate/worker/worker_clock.h"

#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <ctime>

#include "base/assert.h"
#include "engine/translate/link/arena.h"
#include "engine/translate/link/futex.h"

namespace doppel::engine::translate {

namespace {

// Far enough to be never, near enough to add offsets to.
constexpr std::uint64_t latest_deadline = std::uint64_t{1} << 61;

// A POSIX timer that signals the thread that made it.
class SignalTimer final : public bus::Timer {
public:
    SignalTimer(const WorkerClock& clock, std::function<void()> callback)
        : clock_(clock), callback_(std::move(callback))
    {
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = timer_signal();
        event.sigev_value.sival_ptr = this;
        event._sigev_un._tid = ::gettid();
        // The system call, since glibc's timer_t hides threads of its own.
        ASSERT(::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id_) == 0);
    }
    SignalTimer(const SignalTimer&) = delete;
    SignalTimer& operator=(const SignalTimer&) = delete;
    ~SignalTimer() override { ::syscall(SYS_timer_delete, id_); }

    void arm(std::uint64_t deadline_ns) override
    {
        itimerspec spec{};
        if (!clock_.host_time(deadline_ns, spec.it_value)) return cancel();
        set(spec);
    }
    void cancel() override { set({}); }
    void expired() const { callback_(); }

private:
    void set(const itimerspec& spec) const
    {
        ::syscall(SYS_timer_settime, id_, TIMER_ABSTIME, &spec, nullptr);
    }

    const WorkerClock& clock_;
    std::function<void()> callback_;
    int id_ = 0;  // the kernel's timer_t
};

}  // namespace

std::uint64_t WorkerClock::now_ns() const
{
    return mailbox_.clock_running != 0 ? monotonic_ns() + mailbox_.now_base_ns
                                       : mailbox_.now_base_ns;
}

std::uint64_t WorkerClock::tsc() const
{
    return mailbox_.clock_running != 0 ? __rdtsc() + mailbox_.tsc_base : mailbox_.tsc_base;
}

bool WorkerClock::host_time(std::uint64_t deadline_ns, timespec& host) const
{
    if (mailbox_.clock_running == 0) return false;
    const std::uint64_t ns = std::min(deadline_ns, latest_deadline) - mailbox_.now_base_ns;
    // Zero would disarm a timer; a deadline before the host's boot is as good as now.
    host = to_timespec(ns == 0 || ns > 2 * latest_deadline ? 1 : ns);
    return true;
}

std::unique_ptr<bus::Timer> WorkerClock::create_timer(std::function<void()> callback)
{
    return std::make_unique<SignalTimer>(*this, std::move(callback));
}

void WorkerClock::expired(const siginfo_t& info)
{
    // SAFETY: si_value of a timer's signal is what SignalTimer gave the kernel; a timer that
    // is deleted while its signal is pending is deleted by this very thread, at the worker's end.
    if (info.si_code == SI_TIMER) static_cast<const SignalTimer*>(info.si_value.sival_ptr)->expired();
}

}  // namespace doppel::engine::translate
