// The VMM's way to interrupt the worker: events into the mailbox's ring, and the kick.
#pragma once

#include <deque>
#include <mutex>

#include "engine/translate/link/arena.h"
#include "engine/translate/vmm/launch.h"

namespace doppel::engine::translate {

// Threads: any.
class EventPost {
public:
    EventPost(Mailbox& mailbox, Seat& seat, const Setup& setup, const WorkerProcess& process)
        : mailbox_(mailbox), seat_(seat), setup_(setup), process_(process)
    {
    }

    // Queues the event unless one that waits says the same, and makes the worker look. Writes
    // to memory become one note that all of it was written when there are too many.
    void post(const Event& event);
    // run() is to return Reply::kick, or wait() to return.
    void kick();
    // Moves what did not fit the ring. Called now and then. True: something waits there.
    bool flush();
    // Of what did not fit, so much is kept: interrupts that differ, far more than a machine has.
    static constexpr std::size_t backlog_max = 4096;

    // After Reply::halt: sleeps until something is posted, or `deadline_ns` of CLOCK_MONOTONIC.
    void wait(std::uint64_t deadline_ns);

    struct Counters {
        std::uint64_t events = 0, merged = 0, signals = 0, wakes = 0;
    };
    [[nodiscard]] Counters counters() const;

private:
    void queue(const Event& event);
    [[nodiscard]] bool merge(const Event& event);
    void flush_locked();
    void poke();

    Mailbox& mailbox_;
    Seat& seat_;
    const Setup& setup_;
    const WorkerProcess& process_;
    mutable std::mutex mutex_;    // the ring's head, and what follows
    std::uint32_t head_ = 0;
    std::deque<Event> in_ring_;   // [tail, head_) of the ring, in memory that the worker cannot write
    std::deque<Event> backlog_;   // what did not fit
    std::uint64_t events_ = 0, merged_ = 0;
    std::atomic<std::uint64_t> signals_{0}, wakes_{0};
};

}  // namespace doppel::engine::translate
