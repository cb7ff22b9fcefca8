// Futexes in memory that two processes share.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>

namespace doppel::engine::translate {

// Sleeps while the word is `value`, until woken, a signal, or `deadline` of CLOCK_MONOTONIC
// (nullptr: none). May wake for no reason.
inline void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t value,
                       const timespec* deadline)
{
    ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, value, deadline, nullptr, FUTEX_BITSET_MATCH_ANY);
}

inline void futex_wake(std::atomic<std::uint32_t>& word)
{
    ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

inline std::uint64_t monotonic_ns()
{
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

inline timespec to_timespec(std::uint64_t ns)
{
    return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

}  // namespace doppel::engine::translate
