#include "base/loop_timer.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

namespace doppel::base {

namespace {

constexpr std::uint64_t second_ns = 1'000'000'000;

}  // namespace

std::uint64_t monotonic_ns()
{
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * second_ns +
           static_cast<std::uint64_t>(now.tv_nsec);
}

Result<std::unique_ptr<LoopTimer>> LoopTimer::create(EventLoop& loop,
                                                           std::function<void()> rings)
{
    std::unique_ptr<LoopTimer> timer{new LoopTimer{loop}};
    timer->rings_ = std::move(rings);
    timer->fd_ = Fd{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
    if (!timer->fd_.valid()) {
        return errno_error(ErrorKind::host, "Cannot create timerfd", errno);
    }
    TRY(loop.add(timer->fd_.get(), EPOLLIN, [raw = timer.get()](std::uint32_t) {
        std::uint64_t count = 0;
        if (::read(raw->fd_.get(), &count, sizeof count) == sizeof count) raw->rings_();
    }));
    return timer;
}

LoopTimer::~LoopTimer()
{
    if (fd_.valid()) loop_.remove(fd_.get());
}

void LoopTimer::set(std::uint64_t deadline_ns) noexcept
{
    const std::uint64_t at = deadline_ns == 0 ? 1 : deadline_ns;  // zero would be no alarm
    itimerspec when{};
    when.it_value.tv_sec = static_cast<time_t>(at / second_ns);
    when.it_value.tv_nsec = static_cast<long>(at % second_ns);
    ::timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

void LoopTimer::cancel() noexcept
{
    const itimerspec never{};
    ::timerfd_settime(fd_.get(), 0, &never, nullptr);
}

}  // namespace doppel::base
