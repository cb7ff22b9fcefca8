// A connected stream socket that never blocks: what it does not take at once is kept, up to what
// its owner allows.
//
// Threads: the event loop's, or before it runs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

class StreamSocket {
public:
    StreamSocket(base::EventLoop& loop, base::Fd fd) : loop_(loop), fd_(std::move(fd)) {}
    ~StreamSocket() { stop_watching(); }
    StreamSocket(const StreamSocket&) = delete;
    StreamSocket& operator=(const StreamSocket&) = delete;

    // Calls `changed` when something may have come, gone, or ended. It may destroy this object.
    // Again: the new one counts.
    base::Result<void> watch(std::function<void()> changed);

    // May there be something to read? False from an empty read() on, until something comes.
    [[nodiscard]] bool readable() const { return readable_ && !input_ended_; }
    // How many bytes there were; 0: none now, or no more ever.
    std::size_t read(std::span<std::byte> to) noexcept;
    [[nodiscard]] bool input_ended() const { return input_ended_; }

    // Sends or keeps them all; vanishing when the other end takes no more.
    void write(std::span<const std::byte> from) noexcept;
    // Bytes that are kept.
    [[nodiscard]] std::size_t kept() const { return kept_.size() - sent_; }
    // Sends what it can of these.
    void pump() noexcept;
    [[nodiscard]] bool output_ended() const { return output_ended_; }

    // The other end reads an end of file behind what was written; it cannot write any more.
    void finish_output() noexcept;
    void finish_input() noexcept;
    // The other end is closed altogether.
    [[nodiscard]] bool hung_up() const noexcept;

private:
    void stop_watching();
    void end_output() noexcept;
    // How many bytes the socket took.
    std::size_t send(std::span<const std::byte> bytes) noexcept;

    base::EventLoop& loop_;
    base::Fd fd_;
    std::vector<std::byte> kept_;
    std::size_t sent_ = 0;  // of kept_
    bool watched_ = false;
    bool readable_ = true, writable_ = true;  // until a call says otherwise
    bool input_ended_ = false, output_ended_ = false, finishing_ = false;
};

}  // namespace doppel::backends
