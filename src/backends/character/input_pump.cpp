#include "backends/character/input_pump.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace doppel::backends {

InputPump::~InputPump()
{
    if (watching_) loop_.remove(fd_);
}

void InputPump::attach(int fd, WhenFull when_full)
{
    detach();
    {
        const std::lock_guard lock{mutex_};
        fd_ = fd;
        when_full_ = when_full;
    }
    resume();
}

void InputPump::detach()
{
    const std::lock_guard lock{mutex_};
    if (watching_) loop_.remove(fd_);
    watching_ = false;
    fd_ = -1;
}

void InputPump::push(std::byte byte)
{
    const std::lock_guard lock{mutex_};
    queue_.push({&byte, 1});
}

// One byte is kept for the end callback.
std::size_t InputPump::room_for_input() const
{
    return queue_.room() > 1 ? queue_.room() - 1 : 0;
}

// Begins to look at the descriptor, again.
void InputPump::resume()
{
    bool always_ready = false;
    {
        const std::lock_guard lock{mutex_};
        resuming_ = false;
        if (fd_ < 0 || watching_) return;
        auto on_ready = [weak = weak_from_this()](std::uint32_t) {
            if (const auto self = weak.lock()) self->on_readable();
        };
        watching_ = loop_.add(fd_, EPOLLIN, std::move(on_ready)).has_value();
        // epoll refuses regular files and /dev/null: they can always be read.
        always_ready = !watching_;
    }
    if (always_ready) on_readable();
}

void InputPump::on_readable()
{
    std::array<std::byte, 1024> buffer;
    ssize_t got = 0;
    {
        const std::lock_guard lock{mutex_};
        if (fd_ < 0) return;
        const std::size_t room = when_full_ == WhenFull::lose ? buffer.size() : room_for_input();
        if (room == 0) {
            if (watching_) loop_.remove(fd_);
            watching_ = false;
            return;
        }
        // Somebody else with the same terminal may have been faster: do not block.
        pollfd ready{fd_, POLLIN, 0};
        if (::poll(&ready, 1, 0) <= 0) return;
        got = ::read(fd_, buffer.data(), std::min(room, buffer.size()));
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    }
    std::function<void()> callback;
    bool again = false;
    if (got > 0) {
        std::vector<std::byte> bytes{buffer.begin(), buffer.begin() + got};
        if (filter_) filter_(bytes);
        const std::lock_guard lock{mutex_};
        const auto fitting = std::min(bytes.size(), room_for_input());
        if (fitting != 0) callback = input_;
        queue_.push(std::span{bytes}.first(fitting));
        again = !watching_ && fd_ >= 0 && !std::exchange(resuming_, true);
    } else {
        detach();
        if (ended_) ended_();
        const std::lock_guard lock{mutex_};
        callback = input_;
    }
    if (again) {
        loop_.post([weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->resume();
        });
    }
    if (callback) callback();
}

std::size_t InputPump::read(std::span<std::byte> bytes) noexcept
{
    const std::lock_guard lock{mutex_};
    const std::size_t count = queue_.pop(bytes);
    if (count != 0 && !watching_ && fd_ >= 0 && !std::exchange(resuming_, true)) {
        loop_.post([weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->resume();
        });
    }
    return count;
}

std::size_t InputPump::available() const noexcept
{
    const std::lock_guard lock{mutex_};
    return queue_.size();
}

void InputPump::set_input_callback(std::function<void()> callback)
{
    const std::lock_guard lock{mutex_};
    input_ = std::move(callback);
}

}  // namespace doppel::backends
