#include "backends/net/stream.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/log.h"

namespace doppel::backends {

namespace {

// What waits for the socket; more makes the guest wait.
constexpr std::size_t most_out_bytes = 512 * 1024;
constexpr std::uint64_t second_ns = 1'000'000'000;

}  // namespace

base::Result<std::unique_ptr<NetBackend>> StreamNet::create(base::EventLoop& loop,
                                                            const StreamOptions& options,
                                                            std::uint16_t mtu)
{
    std::unique_ptr<StreamNet> stream{new StreamNet{loop, options, mtu}};
    StreamNet* raw = stream.get();
    stream->retry_ = TRY(base::LoopTimer::create(loop, [raw] { raw->try_to_connect(); }));
    if (options.server) {
        stream->listener_.emplace(TRY(UnixListener::create(options.path, stream->what())));
        TRY(loop.add(stream->listener_->fd(), EPOLLIN,
                     [raw](std::uint32_t) { raw->accept_peer(); }));
    } else if (auto peer = connect_unix(options.path, stream->what())) {
        stream->begin(std::move(peer).value());
    } else if (options.reconnect_seconds.value_or(0) == 0) {
        return base::Error{peer.error().kind(),
                           peer.error().text() + "; start the other end first, or add server=on "
                                                 "or reconnect=1"};
    } else {
        stream->retry_->set(base::monotonic_ns());
    }
    return std::unique_ptr<NetBackend>{std::move(stream)};
}

StreamNet::~StreamNet()
{
    if (peer_.valid()) {
        write_out();
        if (peer_.valid()) loop_.remove(peer_.get());
    }
    if (listener_) loop_.remove(listener_->fd());
}

void StreamNet::accept_peer() noexcept
{
    base::Fd peer = listener_->accept();
    // A second one finds a closed socket.
    if (peer.valid() && !peer_.valid()) begin(std::move(peer));
}

void StreamNet::try_to_connect() noexcept
{
    if (peer_.valid()) return;
    auto peer = connect_unix(options_.path, what());
    if (peer) return begin(std::move(peer).value());
    retry_->set(base::monotonic_ns() + options_.reconnect_seconds.value_or(1) * second_ns);
}

void StreamNet::begin(base::Fd peer) noexcept
{
    in_.reset();
    out_.clear();
    out_begin_ = 0;
    receiver_waits_ = false;
    watched_ = EPOLLIN;
    const auto watching =
        loop_.add(peer.get(), watched_, [this](std::uint32_t ready) { events(ready); });
    if (!watching) {
        spdlog::warn("{}: {}", what(), watching.error().text());
        return;
    }
    peer_ = std::move(peer);
    ++connections_;
    if (receiver_ != nullptr) receiver_->link_changed(true);
}

// Frames to nobody are lost, as on a cable that is not plugged in.
void StreamNet::end(std::string_view why) noexcept
{
    static std::atomic<std::uint32_t> said{0};
    if (base::log_limited(said)) spdlog::warn("{}: the link is down: {}", what(), why);
    loop_.remove(peer_.get());
    peer_.reset();
    receiver_->link_changed(false);
    if (std::exchange(sender_waits_, false)) receiver_->writable(0);
    if (!options_.server && options_.reconnect_seconds.value_or(1) != 0) {
        retry_->set(base::monotonic_ns() + options_.reconnect_seconds.value_or(1) * second_ns);
    }
}

void StreamNet::events(std::uint32_t ready) noexcept
{
    if ((ready & EPOLLOUT) != 0) {
        write_out();
        if (peer_.valid() && sender_waits_ && out_.size() - out_begin_ < most_out_bytes / 2) {
            sender_waits_ = false;
            receiver_->writable(0);
        }
    }
    if (!peer_.valid()) return;
    const bool gone = (ready & (EPOLLHUP | EPOLLERR)) != 0;
    if (!receiver_waits_) {
        read();
    } else if (gone) {
        end("the other end has gone");
    }
    watch();
}

void StreamNet::read() noexcept
{
    const auto room = in_.room();
    const ssize_t got = ::recv(peer_.get(), room.data(), room.size(), 0);
    if (got == 0) return end("the other end has gone");
    if (got < 0) {
        if (errno != EAGAIN && errno != EINTR) end(std::generic_category().message(errno));
        return;
    }
    in_.added(static_cast<std::size_t>(got));
    deliver();
    if (!in_.broken()) return;
    ++broken_;
    end("the other end sent what is no frame");
}

bool StreamNet::deliver() noexcept
{
    bool any = false;
    while (auto bytes = in_.next()) {
        Frame frame{{}, *bytes};
        if (!settle(frame, {})) {
            ++dropped_in_;
            continue;
        }
        any = true;
        receiver_waits_ = receiver_->receive(0, frame) == Handed::wait;
        if (!receiver_waits_) continue;
        in_.put_back(*bytes);
        break;
    }
    if (any) receiver_->received(0);
    return !receiver_waits_;
}

Handed StreamNet::send(unsigned, Frame& frame) noexcept
{
    if (!peer_.valid()) {
        ++dropped_out_;
        return Handed::yes;
    }
    if (out_.size() - out_begin_ >= most_out_bytes) write_out();
    if (out_.size() - out_begin_ >= most_out_bytes) {
        sender_waits_ = true;
        return Handed::wait;
    }
    const auto length = stream_length(frame.bytes.size());
    out_.insert(out_.end(), length.begin(), length.end());
    out_.insert(out_.end(), frame.bytes.begin(), frame.bytes.end());
    return Handed::yes;
}

void StreamNet::flush(unsigned) noexcept
{
    if (!peer_.valid()) return;
    write_out();
    watch();
}

// Whatever goes wrong is for read() to find, on the loop: end() is not for callers of send().
void StreamNet::write_out() noexcept
{
    while (out_begin_ < out_.size()) {
        const ssize_t sent = ::send(peer_.get(), out_.data() + out_begin_,
                                    out_.size() - out_begin_, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) {
            // What is sent goes when there is as much of it as of the rest.
            if (out_begin_ < out_.size() / 2) return;
            out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(out_begin_));
            out_begin_ = 0;
            return;
        }
        if (sent < 0) break;
        out_begin_ += static_cast<std::size_t>(sent);
    }
    out_.clear();
    out_begin_ = 0;
}

void StreamNet::watch() noexcept
{
    if (!peer_.valid()) return;
    const bool writes = out_begin_ < out_.size() || sender_waits_;
    const std::uint32_t wanted = (receiver_waits_ ? 0u : std::uint32_t{EPOLLIN}) |
                                 (writes ? std::uint32_t{EPOLLOUT} : 0u);
    if (wanted == watched_) return;
    watched_ = wanted;
    static_cast<void>(loop_.modify(peer_.get(), wanted));
}

void StreamNet::resume(unsigned) noexcept
{
    if (!receiver_waits_ || !peer_.valid()) return;
    deliver();
    if (in_.broken()) {
        ++broken_;
        return end("the other end sent what is no frame");
    }
    watch();
}

void StreamNet::counters(base::CounterList& list, std::string_view prefix) const
{
    const std::string front = std::string{prefix} + ".stream.";
    list.add(front + "connections", connections_);
    list.add(front + "broken", broken_);
    list.add(front + "dropped_in", dropped_in_);
    list.add(front + "dropped_out", dropped_out_);
}

}  // namespace doppel::backends
