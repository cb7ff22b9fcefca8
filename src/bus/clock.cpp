#include "bus/clock.h"

#include <cpuid.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <mutex>
#include <vector>

#include "base/assert.h"
#include "base/fd.h"
#include "bus/ticks.h"

namespace doppel::bus {
namespace {

std::uint64_t host_ns()
{
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * ns_per_second +
           static_cast<std::uint64_t>(now.tv_nsec);
}

// TSC ticks per second over about `duration_ns` of busy waiting.
std::uint64_t measure_tsc_hz(std::uint64_t duration_ns)
{
    const std::uint64_t start_ns = host_ns();
    const std::uint64_t start_tsc = __rdtsc();
    std::uint64_t end_ns = start_ns;
    while (end_ns - start_ns < duration_ns) end_ns = host_ns();
    const std::uint64_t ticks = __rdtsc() - start_tsc;
    return std::max<std::uint64_t>(1, mul_div(ticks, ns_per_second, end_ns - start_ns));
}

// What the processor (SDM volume 2, CPUID leaf 15H) or the hypervisor (leaf 40000010H)
// says; 0 when neither does.
std::uint64_t announced_tsc_hz()
{
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    if (__get_cpuid_max(0, nullptr) >= 0x15) {
        __cpuid_count(0x15, 0, eax, ebx, ecx, edx);
        if (eax != 0 && ebx != 0 && ecx != 0) return mul_div(ecx, ebx, eax);
    }
    __cpuid(1, eax, ebx, ecx, edx);
    if ((ecx & (1u << 31)) == 0) return 0;
    __cpuid(0x40000000, eax, ebx, ecx, edx);
    if (eax < 0x40000010 || eax > 0x4000ffff) return 0;
    __cpuid(0x40000010, eax, ebx, ecx, edx);
    return std::uint64_t{eax} * 1000;
}

std::uint64_t host_tsc_hz()
{
    // An announcement is exact, but some hypervisors announce nonsense: it must agree
    // with a short measurement to within one percent.
    const std::uint64_t announced = announced_tsc_hz();
    if (announced != 0) {
        const std::uint64_t measured = measure_tsc_hz(2'000'000);
        const std::uint64_t difference =
            announced > measured ? announced - measured : measured - announced;
        if (difference <= announced / 100) return announced;
    }
    return measure_tsc_hz(20'000'000);
}

// One timerfd. Shared between its handle and the event loop's callback, which may still
// be running when the handle goes away on another thread.
//
// Lock order: Shared::mutex, then HostTimer::mutex.
struct HostTimer {
    base::Fd fd;
    std::function<void()> callback;
    std::mutex mutex;
    bool armed = false;
    std::uint64_t deadline_ns = 0;  // VM time

    // host_deadline 0 stops it: timerfd takes zero for "disarm".
    void set_fd(std::uint64_t host_deadline)
    {
        itimerspec spec{};
        spec.it_value.tv_sec = static_cast<time_t>(host_deadline / ns_per_second);
        spec.it_value.tv_nsec = static_cast<long>(host_deadline % ns_per_second);
        ::timerfd_settime(fd.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
    }
};

// Far enough to be never, near enough to add offsets to.
constexpr std::uint64_t latest_deadline = std::uint64_t{1} << 61;

struct Shared {
    explicit Shared(base::EventLoop& event_loop) : loop(event_loop) {}

    base::EventLoop& loop;
    std::mutex mutex;  // pause, resume and the list of timers
    std::vector<std::shared_ptr<HostTimer>> timers;

    // VM time = host time - offset, unless stopped. Written under the mutex, read without.
    std::atomic<bool> stopped = false;
    std::atomic<std::uint64_t> offset_ns = 0;
    std::atomic<std::uint64_t> offset_tsc = 0;
    std::atomic<std::uint64_t> stopped_ns = 0;
    std::atomic<std::uint64_t> stopped_tsc = 0;

    [[nodiscard]] std::uint64_t now_ns() const
    {
        return stopped ? stopped_ns.load() : host_ns() - offset_ns;
    }

    // Both mutexes held.
    void start(HostTimer& timer) const
    {
        if (!stopped) timer.set_fd(std::max<std::uint64_t>(1, timer.deadline_ns + offset_ns));
    }
};

class HostTimerHandle final : public Timer {
public:
    HostTimerHandle(std::shared_ptr<Shared> shared, std::shared_ptr<HostTimer> timer)
        : shared_(std::move(shared)), timer_(std::move(timer))
    {
    }
    HostTimerHandle(const HostTimerHandle&) = delete;
    HostTimerHandle& operator=(const HostTimerHandle&) = delete;
    ~HostTimerHandle() override
    {
        cancel();
        shared_->loop.remove(timer_->fd.get());
        const std::lock_guard lock{shared_->mutex};
        std::erase(shared_->timers, timer_);
    }

    void arm(std::uint64_t deadline_ns) override
    {
        const std::lock_guard lock{shared_->mutex};
        const std::lock_guard timer_lock{timer_->mutex};
        timer_->armed = true;
        timer_->deadline_ns = std::min(deadline_ns, latest_deadline);
        shared_->start(*timer_);
    }
    void cancel() override
    {
        const std::lock_guard lock{timer_->mutex};
        timer_->armed = false;
        timer_->set_fd(0);
    }

private:
    std::shared_ptr<Shared> shared_;
    std::shared_ptr<HostTimer> timer_;
};

class HostClock final : public HostVmClock {
public:
    HostClock(base::EventLoop& loop, std::uint64_t tsc_hz)
        : shared_(std::make_shared<Shared>(loop)), tsc_hz_(tsc_hz)
    {
        shared_->offset_ns = host_ns();
        shared_->offset_tsc = __rdtsc();
    }

    [[nodiscard]] std::uint64_t now_ns() const override { return shared_->now_ns(); }
    [[nodiscard]] std::uint64_t tsc() const override
    {
        return shared_->stopped ? shared_->stopped_tsc.load() : __rdtsc() - shared_->offset_tsc;
    }
    [[nodiscard]] std::uint64_t tsc_hz() const override { return tsc_hz_; }
    [[nodiscard]] std::optional<HostOffsets> host_offsets() const override
    {
        if (shared_->stopped) return std::nullopt;
        return HostOffsets{shared_->offset_ns, shared_->offset_tsc};
    }

    std::unique_ptr<Timer> create_timer(std::function<void()> callback) override
    {
        auto timer = std::make_shared<HostTimer>();
        timer->fd = base::Fd{::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
        timer->callback = std::move(callback);
        // A handful of timers per machine, made before the guest runs: out of descriptors
        // here is not something a machine could go on without.
        ASSERT(timer->fd.valid());
        ASSERT(shared_->loop
                   .add(timer->fd.get(), EPOLLIN,
                        [shared = shared_, timer](std::uint32_t) { fire(*shared, *timer); })
                   .has_value());
        {
            const std::lock_guard lock{shared_->mutex};
            shared_->timers.push_back(timer);
        }
        return std::make_unique<HostTimerHandle>(shared_, std::move(timer));
    }

    void pause() override
    {
        const std::lock_guard lock{shared_->mutex};
        if (shared_->stopped) return;
        shared_->stopped_ns = host_ns() - shared_->offset_ns;
        shared_->stopped_tsc = __rdtsc() - shared_->offset_tsc;
        shared_->stopped = true;
        for (const auto& timer : shared_->timers) {
            const std::lock_guard timer_lock{timer->mutex};
            timer->set_fd(0);
        }
    }

    void resume() override
    {
        const std::lock_guard lock{shared_->mutex};
        if (!shared_->stopped) return;
        shared_->offset_ns = host_ns() - shared_->stopped_ns;
        shared_->offset_tsc = __rdtsc() - shared_->stopped_tsc;
        shared_->stopped = false;
        for (const auto& timer : shared_->timers) {
            const std::lock_guard timer_lock{timer->mutex};
            if (timer->armed) shared_->start(*timer);
        }
    }

private:
    static void fire(const Shared& shared, HostTimer& timer)
    {
        {
            const std::lock_guard lock{timer.mutex};
            std::uint64_t expirations = 0;
            // Nothing to read: it was cancelled or armed anew after epoll saw it.
            if (::read(timer.fd.get(), &expirations, sizeof expirations) < 0) return;
            if (!timer.armed || shared.stopped) return;
            timer.armed = false;
        }
        timer.callback();
    }

    std::shared_ptr<Shared> shared_;
    std::uint64_t tsc_hz_;
};

}  // namespace

base::Result<std::unique_ptr<HostVmClock>> HostVmClock::create(base::EventLoop& loop)
{
    const base::Fd probe{::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    if (!probe.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a timer (timerfd)", errno);
    }
    return std::unique_ptr<HostVmClock>{std::make_unique<HostClock>(loop, host_tsc_hz())};
}

}  // namespace doppel::bus
