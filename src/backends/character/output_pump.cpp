#include "backends/character/output_pump.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

namespace doppel::backends {
namespace {

// A peer that is gone must give EPIPE, not SIGPIPE; only sockets can say so per call.
ssize_t write_some(int fd, std::span<const std::byte> bytes)
{
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0 || errno != ENOTSOCK) return sent;
    return ::write(fd, bytes.data(), bytes.size());
}

bool takes_output(int fd)
{
    pollfd ready{fd, POLLOUT, 0};
    return ::poll(&ready, 1, 0) == 1;
}

constexpr std::size_t small_piece = 512;
constexpr std::chrono::milliseconds flush_stuck{2000};
constexpr std::chrono::milliseconds flush_total{10000};
constexpr int flush_step_ms = 50;

}  // namespace

OutputPump::~OutputPump()
{
    if (watching_) loop_.remove(fd_.get());
}

void OutputPump::attach(base::Fd fd, Mode mode)
{
    detach();
    const std::lock_guard lock{mutex_};
    fd_ = std::move(fd);
    mode_ = mode;
}

void OutputPump::detach()
{
    std::function<void()> writable;
    {
        const std::lock_guard lock{mutex_};
        watch(false);
        queue_.clear();
        fd_.reset();
        scheduled_ = false;
        if (std::exchange(was_low_, false)) writable = writable_;
    }
    if (writable) writable();
}

std::size_t OutputPump::write(std::span<const std::byte> bytes) noexcept
{
    const std::lock_guard lock{mutex_};
    if (!fd_.valid()) return bytes.size();
    const std::size_t taken = queue_.push(bytes);
    if (queue_.room() < low_room) was_low_ = true;
    if (!scheduled_ && !queue_.empty()) {
        scheduled_ = true;
        loop_.post([weak = weak_from_this()] {
            if (const auto self = weak.lock()) self->pump();
        });
    }
    return taken;
}

std::size_t OutputPump::room() const noexcept
{
    const std::lock_guard lock{mutex_};
    return queue_.room();
}

int OutputPump::write_out()
{
    while (!queue_.empty()) {
        auto bytes = queue_.front();
        if (mode_ == Mode::may_block) {
            if (!takes_output(fd_.get())) return 0;
            bytes = bytes.first(std::min(bytes.size(), small_piece));
        }
        const ssize_t written = write_some(fd_.get(), bytes);
        if (written < 0) {
            if (errno == EINTR) continue;
            return errno == EAGAIN ? 0 : errno;
        }
        queue_.drop(static_cast<std::size_t>(written));
    }
    return 0;
}

void OutputPump::watch(bool on)
{
    if (on == watching_) return;
    watching_ = on;
    if (!on) {
        loop_.remove(fd_.get());
        return;
    }
    auto on_ready = [weak = weak_from_this()](std::uint32_t) {
        if (const auto self = weak.lock()) self->pump();
    };
    if (!loop_.add(fd_.get(), EPOLLOUT, std::move(on_ready))) watching_ = false;
}

void OutputPump::pump()
{
    std::function<void()> writable;
    std::function<void(int)> failed;
    int error = 0;
    {
        const std::lock_guard lock{mutex_};
        if (!fd_.valid()) return;
        error = write_out();
        if (error != 0) {
            watch(false);
            queue_.clear();
            fd_.reset();
            failed = failed_;
        } else {
            watch(!queue_.empty());
        }
        scheduled_ = watching_;
        if (was_low_ && queue_.room() >= low_room) {
            was_low_ = false;
            writable = writable_;
        }
    }
    if (failed) failed(error);
    if (writable) writable();
}

void OutputPump::flush() noexcept
{
    using Clock = std::chrono::steady_clock;
    const auto last = Clock::now() + flush_total;
    auto until = Clock::now() + flush_stuck;
    while (Clock::now() < std::min(until, last)) {
        pollfd ready{};
        {
            const std::lock_guard lock{mutex_};
            const std::size_t before = queue_.size();
            if (!fd_.valid() || write_out() != 0 || queue_.empty()) return;
            if (queue_.size() < before) until = Clock::now() + flush_stuck;
            ready.fd = fd_.get();
        }
        // Short, since the loop may close the descriptor meanwhile.
        ready.events = POLLOUT;
        ::poll(&ready, 1, flush_step_ms);
    }
}

void OutputPump::set_writable_callback(std::function<void()> callback)
{
    const std::lock_guard lock{mutex_};
    writable_ = std::move(callback);
}

void OutputPump::set_failed_callback(std::function<void(int)> callback)
{
    const std::lock_guard lock{mutex_};
    failed_ = std::move(callback);
}

}  // namespace doppel::backends
