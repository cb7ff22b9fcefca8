// The thread of one device: an event loop, and a way to have something done there and wait.
//
// Whoever waits may hold the device lock, so what runs here must never wait for that lock:
// interrupts leave by Bus::defer().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/event_loop.h"
#include "base/result.h"

namespace doppel::devices::virtio {

// Threads: start() and stop() from one thread at a time, never this one; call() from any other.
class IoThread {
public:
    // name: for tools of the host; 15 characters are seen.
    static base::Result<std::unique_ptr<IoThread>> create(std::string name);
    ~IoThread() { stop(); }
    IoThread(const IoThread&) = delete;
    IoThread& operator=(const IoThread&) = delete;

    [[nodiscard]] base::EventLoop& loop() { return *loop_; }

    // Until start(), and after stop(), call() does the task itself.
    void start();
    void stop();
    // Returns when the task is done.
    void call(const std::function<void()>& task);

private:
    IoThread() = default;

    std::string name_;
    std::unique_ptr<base::EventLoop> loop_;
    std::thread thread_;
};

}  // namespace doppel::devices::virtio
