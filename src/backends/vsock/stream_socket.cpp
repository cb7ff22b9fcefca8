#include "backends/vsock/stream_socket.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace doppel::backends {

// Edges: one registration for the socket's whole life, and no event while nobody has room for
// what it says. Only the calls themselves tell what is true, for an event may be of a socket that
// had this descriptor before.
base::Result<void> StreamSocket::watch(std::function<void()> changed)
{
    stop_watching();
    TRY(loop_.add(fd_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                  [this, changed = std::move(changed)](std::uint32_t) {
                      readable_ = writable_ = true;
                      pump();
                      changed();
                  }));
    watched_ = true;
    return {};
}

void StreamSocket::stop_watching()
{
    if (std::exchange(watched_, false)) loop_.remove(fd_.get());
}

std::size_t StreamSocket::read(std::span<std::byte> to) noexcept
{
    if (!readable() || to.empty()) return 0;
    ssize_t got = 0;
    do got = ::recv(fd_.get(), to.data(), to.size(), MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0 || errno != EAGAIN) input_ended_ = true;
    readable_ = false;
    return 0;
}

std::size_t StreamSocket::send(std::span<const std::byte> bytes) noexcept
{
    std::size_t done = 0;
    while (done < bytes.size() && writable_ && !output_ended_) {
        const ssize_t sent = ::send(fd_.get(), bytes.data() + done, bytes.size() - done,
                                    MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            done += static_cast<std::size_t>(sent);
        } else if (errno == EAGAIN) {
            writable_ = false;
        } else if (errno != EINTR) {
            end_output();
        }
    }
    return done;
}

void StreamSocket::write(std::span<const std::byte> from) noexcept
{
    if (finishing_) return;
    const std::size_t done = kept() == 0 ? send(from) : 0;
    if (output_ended_) return;
    kept_.insert(kept_.end(), from.begin() + static_cast<std::ptrdiff_t>(done), from.end());
}

void StreamSocket::pump() noexcept
{
    const std::size_t sent = send(std::span{kept_}.subspan(sent_));
    if (output_ended_) return;
    sent_ += sent;
    if (kept() == 0) {
        kept_.clear();
        sent_ = 0;
        if (finishing_) end_output();
    } else if (sent_ >= kept_.size() / 2) {
        kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(sent_));
        sent_ = 0;
    }
}

void StreamSocket::finish_output() noexcept
{
    finishing_ = true;
    pump();
}

void StreamSocket::end_output() noexcept
{
    if (std::exchange(output_ended_, true)) return;
    kept_.clear();
    sent_ = 0;
    ::shutdown(fd_.get(), SHUT_WR);
}

void StreamSocket::finish_input() noexcept
{
    if (std::exchange(input_ended_, true)) return;
    ::shutdown(fd_.get(), SHUT_RD);
}

bool StreamSocket::hung_up() const noexcept
{
    pollfd state{fd_.get(), 0, 0};
    return ::poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace doppel::backends
