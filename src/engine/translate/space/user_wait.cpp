#include "engine/translate/space/user_wait.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>

namespace doppel::engine::translate
{
namespace
{

constexpr std::uint64_t look_ns = 50'000'000;
// Where futex_waitv (Linux 5.16) is missing, attention is looked at so often.
constexpr std::uint64_t poll_ns = 500'000;

std::uint64_t now_ns()
{
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

timespec as_timespec(std::uint64_t ns)
{
    return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

bool wait_on_one(const std::uint32_t& word, std::uint32_t value, std::uint64_t ns)
{
    const timespec timeout = as_timespec(ns);
    return ::syscall(SYS_futex, &word, FUTEX_WAIT, value, &timeout, nullptr, 0) == 0 ||
           errno != ETIMEDOUT;
}

bool wait_on_two(const std::uint32_t& word, std::uint32_t value, const std::uint32_t& second)
{
    futex_waitv words[2]{};
    words[0].val = value;
    words[0].uaddr = reinterpret_cast<std::uint64_t>(&word);
    words[0].flags = FUTEX_32;
    words[1].val = 0;
    words[1].uaddr = reinterpret_cast<std::uint64_t>(&second);
    words[1].flags = FUTEX_32;
    const timespec deadline = as_timespec(now_ns() + look_ns);
    if (::syscall(SYS_futex_waitv, words, 2, 0, &deadline, CLOCK_MONOTONIC) >= 0) return true;
    if (errno != ENOSYS) return errno != ETIMEDOUT;
    return wait_on_one(word, value, poll_ns);
}

}  // namespace

bool wait_on_word(const std::uint32_t& word, std::uint32_t value,
                  const std::atomic<std::uint32_t>* attention)
{
    if (attention == nullptr) return wait_on_one(word, value, look_ns);
    static_assert(sizeof *attention == sizeof word);
    return wait_on_two(word, value, reinterpret_cast<const std::uint32_t&>(*attention));
}

void wake_word(std::uint32_t& word)
{
    ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool process_ended(int pidfd)
{
    pollfd ended{pidfd, POLLIN, 0};
    return ::poll(&ended, 1, 0) > 0;
}

}  // namespace doppel::engine::translate
