// A bounded queue of input and the descriptor that fills it. When the queue is full the
// descriptor is left alone, and the host's own flow control does the rest; or, where
// somebody types, it is read all the same and what does not fit is lost.
//
// Threads: read() and available() from any; the rest on the event loop's thread or before
// it runs. Held by shared_ptr, since tasks posted to the loop may outlive the owner.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backends/character/byte_queue.h"
#include "base/event_loop.h"

namespace doppel::backends {

class InputPump : public std::enable_shared_from_this<InputPump> {
public:
    static constexpr std::size_t capacity = 4096;
    enum class WhenFull { wait, lose };
    // What shall be queued in place of the bytes just read. Without the lock.
    using Filter = std::function<void(std::vector<std::byte>& bytes)>;

    explicit InputPump(base::EventLoop& loop) : loop_(loop) {}
    ~InputPump();
    InputPump(const InputPump&) = delete;
    InputPump& operator=(const InputPump&) = delete;

    void set_filter(Filter filter) { filter_ = std::move(filter); }
    // At the end of input, before the input callback; may push() one last byte. For a
    // descriptor that can be read again after that (a socket's), attach() a new one.
    void set_end_callback(std::function<void()> callback) { ended_ = std::move(callback); }
    void set_input_callback(std::function<void()> callback);

    // The caller keeps the descriptor open until detach().
    void attach(int fd, WhenFull when_full = WhenFull::wait);
    void detach();  // what is queued stays
    void push(std::byte byte);

    std::size_t read(std::span<std::byte> bytes) noexcept;
    [[nodiscard]] std::size_t available() const noexcept;

private:
    void on_readable();
    void resume();
    [[nodiscard]] std::size_t room_for_input() const;  // mutex held

    base::EventLoop& loop_;
    mutable std::mutex mutex_;
    ByteQueue queue_{capacity};
    Filter filter_;
    std::function<void()> ended_;
    std::function<void()> input_;
    int fd_ = -1;
    WhenFull when_full_ = WhenFull::wait;
    bool watching_ = false;
    bool resuming_ = false;  // resume() is posted
};

}  // namespace doppel::backends
