#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>

namespace doppel::base {

Result<std::unique_ptr<EventLoop>> EventLoop::create()
{
    std::unique_ptr<EventLoop> loop{new EventLoop};
    loop->epoll_ = Fd{::epoll_create1(EPOLL_CLOEXEC)};
    if (!loop->epoll_.valid()) return errno_error(ErrorKind::host, "Cannot create epoll", errno);
    loop->wake_ = Fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!loop->wake_.valid()) return errno_error(ErrorKind::host, "Cannot create eventfd", errno);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = loop->wake_.get();
    if (::epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) != 0) {
        return errno_error(ErrorKind::host, "Cannot watch eventfd", errno);
    }
    return loop;
}

Result<void> EventLoop::add(int fd, std::uint32_t events, Callback callback)
{
    const std::lock_guard lock{mutex_};
    callbacks_[fd] = std::make_shared<Callback>(std::move(callback));
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        const int error = errno;
        callbacks_.erase(fd);
        return errno_error(ErrorKind::io, "Cannot watch descriptor", error);
    }
    return {};
}

Result<void> EventLoop::modify(int fd, std::uint32_t events)
{
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
        return errno_error(ErrorKind::io, "Cannot watch descriptor", errno);
    }
    return {};
}

void EventLoop::remove(int fd)
{
    const std::lock_guard lock{mutex_};
    if (callbacks_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::post(std::function<void()> task)
{
    {
        const std::lock_guard lock{mutex_};
        posted_.push_back(std::move(task));
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void EventLoop::stop()
{
    post([this] { stop_ = true; });
}

void EventLoop::run_posted()
{
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
    std::vector<std::function<void()>> tasks;
    {
        const std::lock_guard lock{mutex_};
        tasks.swap(posted_);
    }
    for (auto& task : tasks) task();
}

void EventLoop::run()
{
    std::array<epoll_event, 16> events;
    while (!stop_) {
        const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
        if (count < 0 && errno != EINTR) break;
        for (int i = 0; i < count; ++i) {
            const auto& event = events[static_cast<std::size_t>(i)];
            if (event.data.fd == wake_.get()) {
                run_posted();
                continue;
            }
            std::shared_ptr<Callback> callback;
            {
                const std::lock_guard lock{mutex_};
                const auto found = callbacks_.find(event.data.fd);
                if (found != callbacks_.end()) callback = found->second;
            }
            if (callback) (*callback)(event.events);
        }
    }
    stop_ = false;
}

}  // namespace doppel::base
