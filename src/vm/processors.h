// The VM's vCPUs, each on a thread of its own: run, answer the exit from the bus, again.
//
//   thread 0   run() ─ exit ─ run() ─ exit ─────┐           ┌─ run() ...
//   thread 1   run() ─ exit ──────── run() ─────┤ between() ├─ run() ...
//   thread 2   wait() ──────────────────────────┘           └─ wait() ...
//
// Threads: create(), start(), join() and the rest on the owner's; kick() and meet() from any.
// stop() from any, the processors' included. Statistics are read when no vCPU runs: in between(),
// before start(), or after join().
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "base/result.h"
#include "bus/bus.h"
#include "engine/engine.h"

namespace doppel::vm {

struct ProcessorEvents {
    // A vCPU shut down or its engine gave up. On its thread.
    std::function<void(const engine::Exit&)> ended;
    // After meet(): on the first vCPU's thread, while none runs.
    std::function<void()> between;
};

class Processors {
public:
    Processors(bus::Bus& bus, ProcessorEvents events) : bus_(bus), events_(std::move(events)) {}

    base::Result<void> create(engine::Engine& engine, unsigned count);
    [[nodiscard]] engine::Vcpu& first() { return *processors_.front()->vcpu; }

    void start();
    // No vCPU runs again. Wakes all that wait for one another.
    void stop() noexcept;
    // Waits for the threads' ends.
    void join();
    // The first vCPU's thread ended: there is nothing to wait for. Any thread.
    void on_end(std::function<void()> callback) { on_end_ = std::move(callback); }

    void kick() noexcept;
    void meet() noexcept;

    // Of all vCPUs together: exits by kind, what each counts, and where the time went.
    void counters(base::CounterList& list) const;
    [[nodiscard]] std::uint64_t instructions() const;

private:
    static constexpr std::size_t exit_kinds = std::variant_size_v<engine::Exit>;
    struct Processor {
        std::unique_ptr<engine::Vcpu> vcpu;
        std::thread thread;
        std::array<std::uint64_t, exit_kinds> exits{};
        // ns in run(), in wait(), and answering exits.
        std::uint64_t in_run = 0, in_wait = 0, answering = 0;
    };

    void run(Processor& processor, bool first) noexcept;
    void handle(engine::Vcpu& vcpu, const engine::Exit& exit) noexcept;
    void come_together(bool first);
    void serve_read(engine::Vcpu& vcpu, bus::Space space, std::uint64_t address,
                    unsigned size) noexcept;
    void serve_write(bus::Space space, std::uint64_t address, unsigned size,
                     std::uint64_t value) noexcept;
    static void add_times(base::CounterList& list, const Processor& processor);

    bus::Bus& bus_;
    ProcessorEvents events_;
    std::function<void()> on_end_;
    std::vector<std::unique_ptr<Processor>> processors_;

    std::atomic<bool> stopping_ = false;
    std::atomic<bool> meeting_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t waiting_ = 0;     // mutex_: threads in come_together()
    std::uint64_t meetings_ = 0;  // mutex_
};

}  // namespace doppel::vm
