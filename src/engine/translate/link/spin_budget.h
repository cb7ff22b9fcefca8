// Waiting for another process busily, where that pays.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

#include "engine/translate/link/futex.h"

namespace doppel::engine::translate {

// How long to look at the other side's word before sleeping. Being woken on an idle processor
// takes tens of microseconds, so looking pays for as long, unless others want the processors:
// then looking only keeps the other side from answering. Two things tell. A look that comes late:
// this thread was not running; for a while after it nobody looks for long. And waits that take
// longer than looking ever does: looks become fewer with each, and more with each that does not.
class SpinBudget {
public:
    explicit SpinBudget(std::uint32_t max)
        : max_(max), least_(max < least_looks ? max : least_looks), worth_(max)
    {
    }
    // Looks to spend on a wait that begins at this host TSC.
    [[nodiscard]] std::uint32_t looks(std::uint64_t tsc) const
    {
        return tsc < contended_until_ ? least_ : worth_;
    }
    // A wait took so long, asleep or not.
    void waited(std::uint64_t ticks)
    {
        worth_ = ticks > long_ticks ? std::max(least_, worth_ / 4)
                                     : std::min(max_, worth_ + worth_ / 4 + 1);
    }
    // Two looks came at these host TSCs. False: the thread was preempted in between, for longer
    // than by a device's thread with its few microseconds of work.
    [[nodiscard]] bool looked(std::uint64_t before, std::uint64_t now)
    {
        if (now - before < preempted_ticks) return true;
        contended_until_ = now + contended_ticks;
        return false;
    }

private:
    static constexpr std::uint32_t least_looks = 24;           // about a microsecond
    static constexpr std::uint64_t preempted_ticks = 300'000;  // 100 to 150 microseconds
    static constexpr std::uint64_t contended_ticks = 60'000'000;
    static constexpr std::uint64_t long_ticks = 300'000;       // 100 to 150 microseconds
    std::uint32_t max_, least_, worth_;
    std::uint64_t contended_until_ = 0;
};

// Processors of the host that this process may use.
inline std::uint32_t usable_processors()
{
    cpu_set_t processors;
    CPU_ZERO(&processors);
    if (::sched_getaffinity(0, sizeof processors, &processors) != 0) return 1;
    return static_cast<std::uint32_t>(CPU_COUNT(&processors));
}

// How many looks with a PAUSE between them take so many nanoseconds; 0 when this process may
// use one processor only, where looking cannot make anything happen.
inline std::uint32_t looks_in(std::uint64_t ns)
{
    if (usable_processors() == 1) return 0;
    // The best of a few, in case this thread is preempted meanwhile.
    constexpr unsigned looks = 200;
    std::uint64_t best = std::numeric_limits<std::uint64_t>::max();
    for (unsigned round = 0; round < 5; ++round) {
        const std::uint64_t start = monotonic_ns();
        for (unsigned i = 0; i < looks; ++i) __builtin_ia32_pause();
        best = std::min(best, monotonic_ns() - start);
    }
    return static_cast<std::uint32_t>(ns * looks / std::max<std::uint64_t>(best, looks));
}

// The processor that this thread is on, from 1; 0: unknown.
inline std::uint32_t this_processor()
{
    return static_cast<std::uint32_t>(::sched_getcpu() + 1);
}

// Looks, at most so often, until seen() says so. Not while the other side was last seen on the
// processor that this thread has: there it cannot go on before this one sleeps.
template <typename Seen>
bool look_for(SpinBudget& budget, std::uint32_t looks, const std::atomic<std::uint32_t>& other_processor,
              Seen&& seen)
{
    std::uint64_t before = __builtin_ia32_rdtsc();
    for (looks = std::min(looks, budget.looks(before)); looks != 0; --looks) {
        if (seen()) return true;
        const std::uint32_t other = other_processor.load(std::memory_order_relaxed);
        if (other != 0 && other == this_processor()) return false;
        __builtin_ia32_pause();
        const std::uint64_t now = __builtin_ia32_rdtsc();
        if (!budget.looked(before, now)) break;
        before = now;
    }
    return seen();
}

}  // namespace doppel::engine::translate
