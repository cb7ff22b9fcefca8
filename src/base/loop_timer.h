// One alarm on an event loop, at a time of the host's monotonic clock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::base {

[[nodiscard]] std::uint64_t monotonic_ns();

// Threads: the loop's, or while it does not run.
class LoopTimer {
public:
    static Result<std::unique_ptr<LoopTimer>> create(EventLoop& loop,
                                                           std::function<void()> rings);
    LoopTimer(const LoopTimer&) = delete;
    LoopTimer& operator=(const LoopTimer&) = delete;
    ~LoopTimer();

    // Nanoseconds; what is past rings at once. Replaces the alarm that was set.
    void set(std::uint64_t deadline_ns) noexcept;
    void cancel() noexcept;

private:
    explicit LoopTimer(EventLoop& loop) : loop_(loop) {}

    EventLoop& loop_;
    Fd fd_;
    std::function<void()> rings_;
};

}  // namespace doppel::base
