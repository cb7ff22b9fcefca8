// The socket to a vhost-user back end: requests go out in order, and answers come back in the order
// of the requests that have one. Nothing else may come.
//
// The peer is as hostile as a guest: an answer that was not asked for, of another size, or that does
// not come within `patience` ends the channel.
//
// Threads: the event loop's, or while it does not run.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/loop_timer.h"
#include "backends/vhost_user/message_reader.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends::vhost_user {

class Channel {
public:
    static constexpr std::chrono::seconds patience{5};
    using Answered = std::function<void(std::span<const std::byte> payload)>;

    // lost: once, from the loop, and never from within a call of a member; may destroy the channel.
    static base::Result<std::unique_ptr<Channel>> create(
        base::EventLoop& loop, base::Fd socket, std::function<void(const std::string& why)> lost);
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;
    ~Channel();

    void send(Request request, std::span<const std::byte> payload, std::span<const int> fds = {});
    // The answer's payload has from `least` to `most` bytes.
    struct Size {
        std::size_t least, most;
    };
    // acknowledge: the request has no answer of its own, but shall have one (REPLY_ACK).
    enum class Kind { answer, acknowledge };
    void ask(Request request, std::span<const std::byte> payload, std::span<const int> fds,
             Size size, Answered answered, Kind kind = Kind::answer);
    // The peer has said what cannot be; as if the socket had closed.
    void fail(std::string why);

    // Waits for all answers, and calls back for each. False: it is lost, see problem().
    [[nodiscard]] bool settle();
    // Takes what has come. False: it is lost.
    [[nodiscard]] bool alive()
    {
        receive();
        return usable();
    }
    [[nodiscard]] const std::string& problem() const { return problem_; }
    [[nodiscard]] bool usable() const { return problem_.empty(); }

private:
    struct Asked {
        Request request;
        Size size;
        Answered answered;
    };
    Channel(base::EventLoop& loop, base::Fd socket) : loop_(loop), socket_(std::move(socket)) {}
    void write(Request request, std::uint32_t flags, std::span<const std::byte> payload,
               std::span<const int> fds);
    void receive();
    void take(const MessageReader::Message& message);
    void set_deadline();
    void events();

    base::EventLoop& loop_;
    base::Fd socket_;
    std::function<void(const std::string&)> lost_;
    std::unique_ptr<base::LoopTimer> timer_;
    std::uint64_t deadline_ns_ = 0;
    MessageReader reader_;
    std::deque<Asked> asked_;
    std::string problem_;
};

}  // namespace doppel::backends::vhost_user
