// A VmClock that stands still until it is told to advance: for tests and fuzzing.
// Threads: one.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "bus/clock.h"
#include "bus/ticks.h"

namespace doppel::bus {

class ManualClock final : public VmClock {
public:
    explicit ManualClock(std::uint64_t tsc_hz = ns_per_second) : tsc_hz_(tsc_hz) {}

    [[nodiscard]] std::uint64_t now_ns() const override { return now_; }
    [[nodiscard]] std::uint64_t tsc() const override { return ns_to_ticks(now_, tsc_hz_); }
    [[nodiscard]] std::uint64_t tsc_hz() const override { return tsc_hz_; }
    std::unique_ptr<Timer> create_timer(std::function<void()> callback) override
    {
        return std::make_unique<ManualTimer>(*this, std::move(callback));
    }

    // Moves time on; timers fire in the order of their deadlines, each at its own time.
    void advance(std::uint64_t ns)
    {
        const std::uint64_t end = ns > ~now_ ? ~std::uint64_t{0} : now_ + ns;
        while (ManualTimer* next = earliest(end)) {
            now_ = std::max(now_, next->deadline);
            next->armed = false;
            ++fired_;
            next->callback();
        }
        now_ = end;
    }
    // Deadline of the next timer; all ones when none is armed.
    [[nodiscard]] std::uint64_t next_deadline() const
    {
        std::uint64_t next = ~std::uint64_t{0};
        for (const ManualTimer* timer : timers_) {
            if (timer->armed) next = std::min(next, timer->deadline);
        }
        return next;
    }
    [[nodiscard]] std::uint64_t fired() const { return fired_; }

private:
    struct ManualTimer final : Timer {
        ManualTimer(ManualClock& owner, std::function<void()> action)
            : clock(owner), callback(std::move(action))
        {
            clock.timers_.push_back(this);
        }
        ManualTimer(const ManualTimer&) = delete;
        ManualTimer& operator=(const ManualTimer&) = delete;
        ~ManualTimer() override { std::erase(clock.timers_, this); }
        void arm(std::uint64_t deadline_ns) override
        {
            deadline = deadline_ns;
            armed = true;
        }
        void cancel() override { armed = false; }

        ManualClock& clock;
        std::function<void()> callback;
        std::uint64_t deadline = 0;
        bool armed = false;
    };
    ManualTimer* earliest(std::uint64_t end)
    {
        ManualTimer* best = nullptr;
        for (ManualTimer* timer : timers_) {
            if (!timer->armed || timer->deadline > end) continue;
            if (best == nullptr || timer->deadline < best->deadline) best = timer;
        }
        return best;
    }

    std::uint64_t now_ = 0;
    std::uint64_t tsc_hz_;
    std::uint64_t fired_ = 0;
    std::vector<ManualTimer*> timers_;
};

}  // namespace doppel::bus
