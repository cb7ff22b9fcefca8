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
#include "base/processor_choice.h"
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
    // On the thread: leaves this processor of the host, from 1, to others; 0: no longer. What is
    // woken by a vCPU's thread otherwise tends to run where that would go on, though another
    // processor has nothing to do.
    void stay_off(std::uint32_t processor) noexcept;
    // Returns when the task is done.
    void call(const std::function<void()>& task);

private:
    static constexpr std::uint64_t least_stay_ns = 1'000'000;  // moving costs some microseconds

    IoThread() = default;

    std::string name_;
    std::unique_ptr<base::EventLoop> loop_;
    std::thread thread_;
    base::ProcessorChoice processors_;
    std::uint64_t moved_ns_ = 0;
};

}  // namespace doppel::devices::virtio
