#include "backends/vhost_user/channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "base/assert.h"

namespace doppel::backends::vhost_user {

namespace {

std::string text_of(int error)
{
    if (error == EPIPE || error == ECONNRESET) return "it closed the connection";
    return std::generic_category().message(error);
}

}  // namespace

base::Result<std::unique_ptr<Channel>> Channel::create(
    base::EventLoop& loop, base::Fd socket, std::function<void(const std::string&)> lost)
{
    std::unique_ptr<Channel> channel{new Channel{loop, std::move(socket)}};
    Channel* raw = channel.get();
    channel->lost_ = std::move(lost);
    channel->timer_ = TRY(base::LoopTimer::create(loop, [raw] {
        raw->fail("it does not answer");
    }));
    TRY(loop.add(raw->socket_.get(), EPOLLIN, [raw](std::uint32_t) { raw->events(); }));
    return channel;
}

Channel::~Channel() { loop_.remove(socket_.get()); }

void Channel::send(Request request, std::span<const std::byte> payload, std::span<const int> fds)
{
    write(request, 0, payload, fds);
}

void Channel::ask(Request request, std::span<const std::byte> payload, std::span<const int> fds,
                  Size size, Answered answered, Kind kind)
{
    ASSERT(size.most <= most_payload_bytes);
    if (!usable()) return;
    asked_.push_back({request, size, std::move(answered)});
    if (asked_.size() == 1) set_deadline();
    write(request, kind == Kind::acknowledge ? flag_need_reply : 0, payload, fds);
}

// Requests are small, and a peer that reads has room for hundreds: there is no waiting for room.
void Channel::write(Request request, std::uint32_t flags, std::span<const std::byte> payload,
                    std::span<const int> fds)
{
    ASSERT(fds.size() <= most_regions);
    if (!usable()) return;
    Header header{static_cast<std::uint32_t>(request), flag_version | flags,
                  static_cast<std::uint32_t>(payload.size())};
    std::array<iovec, 2> parts{
        iovec{&header, sizeof header},
        // SAFETY: sendmsg() only reads what its buffers point to.
        iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = payload.empty() ? 1 : 2;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(most_regions * sizeof(int))> control{};
    if (!fds.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    ssize_t sent = 0;
    do {
        sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent == static_cast<ssize_t>(sizeof header + payload.size())) return;
    fail(sent >= 0 || errno == EAGAIN ? "it does not read what it is sent" : text_of(errno));
}

void Channel::fail(std::string why)
{
    if (!usable()) return;
    problem_ = std::move(why);
    asked_.clear();
    // The loop finds the socket closed, and says so to the owner.
    ::shutdown(socket_.get(), SHUT_RDWR);
}

void Channel::set_deadline()
{
    deadline_ns_ = base::monotonic_ns() +
                   static_cast<std::uint64_t>(std::chrono::nanoseconds{patience}.count());
    timer_->set(deadline_ns_);
}

void Channel::receive()
{
    while (usable()) {
        const auto room = reader_.room();
        // Descriptors that come along are not received: nobody asks for any.
        const ssize_t got = ::recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
        if (got == 0) return fail(text_of(EPIPE));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            if (errno != EAGAIN) fail(text_of(errno));
            return;
        }
        reader_.added(static_cast<std::size_t>(got));
        while (usable()) {
            const auto message = reader_.next();
            if (!message) break;
            take(*message);
        }
        if (reader_.broken()) fail("it sent what is no message");
    }
}

void Channel::take(const MessageReader::Message& message)
{
    const Header& header = message.header;
    if (asked_.empty() || (header.flags & flag_reply) == 0 ||
        header.request != static_cast<std::uint32_t>(asked_.front().request)) {
        return fail("it sent an answer that nobody asked for");
    }
    const Asked asked = std::move(asked_.front());
    asked_.pop_front();
    if (header.size < asked.size.least || header.size > asked.size.most) {
        return fail("it sent an answer of the wrong size");
    }
    if (asked_.empty()) {
        timer_->cancel();
    } else {
        set_deadline();
    }
    asked.answered(message.payload);
}

void Channel::events()
{
    receive();
    if (usable()) return;
    // The owner may destroy the channel, and its reason with it.
    loop_.remove(socket_.get());
    const auto lost = lost_;
    const std::string why = problem_;
    lost(why);
}

bool Channel::settle()
{
    while (usable() && !asked_.empty()) {
        const std::uint64_t now = base::monotonic_ns();
        if (now >= deadline_ns_) {
            fail("it does not answer");
            break;
        }
        pollfd wait{socket_.get(), POLLIN, 0};
        ::poll(&wait, 1, static_cast<int>((deadline_ns_ - now) / 1'000'000 + 1));
        receive();
    }
    return usable();
}

}  // namespace doppel::backends::vhost_user
