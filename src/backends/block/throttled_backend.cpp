#include "backends/block/throttled_backend.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <cerrno>

namespace doppel::backends {

namespace {

using Time = TokenBucket::Time;

Time now()
{
    return std::chrono::steady_clock::now().time_since_epoch();
}

std::uint64_t burst_of(std::uint64_t asked, std::uint64_t per_second)
{
    return asked != 0 ? asked : per_second / 10;
}

}  // namespace

ThrottledBackend::ThrottledBackend(base::EventLoop& loop, std::unique_ptr<BlockBackend> below,
                                   const ThrottleLimits& limits)
    : BlockBackend(loop, below->properties()),
      below_(std::move(below)),
      bytes_(limits.bytes, burst_of(limits.burst_bytes, limits.bytes)),
      requests_(limits.requests, burst_of(limits.burst_requests, limits.requests))
{
}

base::Result<std::unique_ptr<BlockBackend>> ThrottledBackend::create(
    base::EventLoop& loop, std::unique_ptr<BlockBackend> below, const ThrottleLimits& limits)
{
    std::unique_ptr<ThrottledBackend> backend{new ThrottledBackend{loop, std::move(below), limits}};
    TRY(backend->watch());
    backend->timer_ = base::Fd{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
    if (!backend->timer_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a timer", errno);
    }
    ThrottledBackend* raw = backend.get();
    TRY(loop.add(backend->timer_.get(), EPOLLIN, [raw](std::uint32_t) {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = ::read(raw->timer_.get(), &count, sizeof count);
        raw->pass_on(false);
    }));
    return std::unique_ptr<BlockBackend>{std::move(backend)};
}

ThrottledBackend::~ThrottledBackend()
{
    if (timer_.valid()) loop().remove(timer_.get());
    below_.reset();  // before what its requests' `done` use
}

void ThrottledBackend::start(std::span<Request> requests) noexcept
{
    for (Request& request : requests) waiting_.push_back(std::move(request));
    pass_on(false);
}

void ThrottledBackend::hurry() noexcept
{
    pass_on(true);
    below_->drain();
}

void ThrottledBackend::pass_on(bool at_once)
{
    while (!waiting_.empty()) {
        const Request& next = waiting_.front();
        // A flush stores nothing of its own, and waiting with it would only cost safety.
        if (next.kind != Request::Kind::flush) {
            const Time time = now();
            const Time ready = std::max(bytes_.ready_at(), requests_.ready_at());
            if (!at_once && ready > time) {
                set_timer(ready);
                return;
            }
            const bool moves = next.kind != Request::Kind::discard;
            bytes_.use(moves ? next.length : 0, time);
            requests_.use(1, time);
        }
        Request request = std::move(waiting_.front());
        waiting_.pop_front();
        pass_on(std::move(request));
    }
}

void ThrottledBackend::pass_on(Request&& request)
{
    Request inner = request;
    inner.done = [this, held = std::move(request)](Status status) mutable {
        finish(std::move(held), status);
    };
    below_->submit(std::move(inner));
}

void ThrottledBackend::set_timer(Time at)
{
    itimerspec when{};
    when.it_value.tv_sec = at.count() / 1'000'000'000;
    when.it_value.tv_nsec = at.count() % 1'000'000'000;
    ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

}  // namespace doppel::backends
