// epoll loop for everything that is not a vCPU: terminal input, sockets, timers.
//
// Threads: run() on one thread; add/remove/post/stop from any thread. Callbacks run on
// the loop's thread, must not block, and must not throw.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace doppel::base {

class EventLoop {
public:
    using Callback = std::function<void(std::uint32_t events)>;

    static Result<std::unique_ptr<EventLoop>> create();

    // events: EPOLLIN, EPOLLOUT, ... One registration per descriptor; the caller keeps it open.
    Result<void> add(int fd, std::uint32_t events, Callback callback);
    Result<void> modify(int fd, std::uint32_t events);
    // After return no new call of the callback starts; one under way on the loop's
    // thread may still be finishing if the caller is another thread.
    void remove(int fd);
    void post(std::function<void()> task);

    void run();
    void stop();

private:
    EventLoop() = default;
    void run_posted();

    Fd epoll_;
    Fd wake_;
    std::mutex mutex_;
    std::map<int, std::shared_ptr<Callback>> callbacks_;
    std::vector<std::function<void()>> posted_;
    bool stop_ = false;
};

}  // namespace doppel::base
