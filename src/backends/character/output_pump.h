// A bounded queue of output and the descriptor it drains into, without blocking.
//
// Threads: write(), room() and flush() from any; the rest on the event loop's thread or
// before it runs. Held by shared_ptr, since tasks posted to the loop may outlive the owner.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "backends/character/byte_queue.h"
#include "base/event_loop.h"
#include "base/fd.h"

namespace doppel::backends {

class OutputPump : public std::enable_shared_from_this<OutputPump> {
public:
    static constexpr std::size_t capacity = 64 * 1024;

    explicit OutputPump(base::EventLoop& loop) : loop_(loop) {}
    ~OutputPump();
    OutputPump(const OutputPump&) = delete;
    OutputPump& operator=(const OutputPump&) = delete;

    // may_block: for a terminal or pipe whose O_NONBLOCK is not ours to set, since other
    // processes share it. Then only small pieces are written, and only when poll() says that
    // there is room: a pipe takes such a piece at once, a terminal nearly always.
    enum class Mode { does_not_block, may_block };
    void attach(base::Fd fd, Mode mode = Mode::does_not_block);
    // Drops what is queued; from now on bytes are accepted and vanish.
    void detach();

    std::size_t write(std::span<const std::byte> bytes) noexcept;
    [[nodiscard]] std::size_t room() const noexcept;
    // Up to two seconds without progress, ten in all; from any thread.
    void flush() noexcept;

    void set_writable_callback(std::function<void()> callback);
    // Called once per attached descriptor, with errno, when it takes no more. The pump has
    // detached itself then.
    void set_failed_callback(std::function<void(int error)> callback);

private:
    // Below this much room somebody may be waiting for the writable callback.
    static constexpr std::size_t low_room = 1024;

    void pump();
    // Mutex held. 0: everything written or the host is full; else errno.
    int write_out();
    void watch(bool on);

    base::EventLoop& loop_;
    mutable std::mutex mutex_;
    ByteQueue queue_{capacity};
    base::Fd fd_;
    Mode mode_ = Mode::does_not_block;
    std::function<void()> writable_;
    std::function<void(int)> failed_;
    bool scheduled_ = false;  // a pump() is posted, or the descriptor is watched
    bool watching_ = false;
    bool was_low_ = false;
};

}  // namespace doppel::backends
