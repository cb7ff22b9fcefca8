#include "backends/net/poll_set.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>

namespace doppel::backends {

base::Result<PollSet> PollSet::create()
{
    PollSet set;
    set.epoll_ = base::Fd{::epoll_create1(EPOLL_CLOEXEC)};
    if (!set.epoll_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create epoll", errno);
    }
    return set;
}

void PollSet::begin()
{
    list_.clear();
    for (auto& [fd, watched] : watched_) watched.listed = false;
}

int PollSet::add(int fd, std::uint32_t epoll_events)
{
    list_.push_back(fd);
    const auto [found, is_new] = watched_.try_emplace(fd);
    Watched& watched = found->second;
    watched.listed = true;
    if (is_new || watched.events != epoll_events) {
        watched.events = epoll_events;
        epoll_event event{};
        event.events = epoll_events;
        event.data.fd = fd;
        const int first = is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
        const int other = is_new ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
        if (::epoll_ctl(epoll_.get(), first, fd, &event) != 0) {
            ::epoll_ctl(epoll_.get(), other, fd, &event);
        }
    }
    return static_cast<int>(list_.size() - 1);
}

void PollSet::end()
{
    for (auto at = watched_.begin(); at != watched_.end();) {
        if (at->second.listed) {
            ++at;
            continue;
        }
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, at->first, nullptr);
        at = watched_.erase(at);
    }
}

void PollSet::forget(int fd)
{
    if (watched_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void PollSet::look()
{
    for (auto& [fd, watched] : watched_) watched.ready = 0;
    std::array<epoll_event, 64> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), 0);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        const auto found = watched_.find(event.data.fd);
        if (found != watched_.end()) found->second.ready = event.events;
    }
}

std::uint32_t PollSet::ready(int number) const
{
    if (number < 0 || static_cast<std::size_t>(number) >= list_.size()) return 0;
    const auto found = watched_.find(list_[static_cast<std::size_t>(number)]);
    return found == watched_.end() ? 0 : found->second.ready;
}

}  // namespace doppel::backends
