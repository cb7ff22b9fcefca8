// SIGINT, SIGTERM and SIGHUP as events of the loop, SIGUSR2 if it is wanted, and SIGPIPE
// ignored, while an object of this class lives. Made before other threads start, so that they inherit the mask.
#pragma once

#include <csignal>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::vm {

class SignalWatch {
public:
    // Both run on the loop's thread. on_signal: one of the first three; a second one, while the
    // first is still being served, gets its default effect. on_usr2: may be empty, then that
    // signal keeps its default effect.
    static base::Result<std::unique_ptr<SignalWatch>> create(
        base::EventLoop& loop, std::function<void(int signal)> on_signal,
        std::function<void()> on_usr2);
    SignalWatch(const SignalWatch&) = delete;
    SignalWatch& operator=(const SignalWatch&) = delete;
    ~SignalWatch();

private:
    explicit SignalWatch(base::EventLoop& loop) : loop_(loop) {}
    void on_readable();

    base::EventLoop& loop_;
    base::Fd fd_;
    std::function<void(int)> on_signal_;
    std::function<void()> on_usr2_;
    bool seen_ = false;
    sigset_t old_mask_{};
    struct sigaction old_pipe_ {};
};

}  // namespace doppel::vm
