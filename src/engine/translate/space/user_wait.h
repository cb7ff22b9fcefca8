// Sleeping until another process writes a word, or ends.
#pragma once

#include <atomic>
#include <cstdint>

namespace doppel::engine::translate
{

// Sleeps until the word, in shared memory, is woken while it is `value`, or until *attention is
// woken while it is 0 (nullptr: not watched), a signal, or 50 ms. May return early. False: the
// time is over, so look whether the other side still lives.
bool wait_on_word(const std::uint32_t& word, std::uint32_t value,
                  const std::atomic<std::uint32_t>* attention);
void wake_word(std::uint32_t& word);

bool process_ended(int pidfd);

// How long to look at the other side's word before sleeping. Looking pays when the other side
// answers soon and runs on another processor; when it waits for ours, looking only keeps it from
// answering. So a failure halves the time, an answer late in the time doubles it, and now and
// then the longest time is tried, in case answers come later than the shortest one.
class SpinBudget {
public:
    explicit SpinBudget(std::uint32_t max)
        : max_(max), least_(max < least_looks ? max : least_looks), now_(max)
    {
    }
    // Looks to spend on the next wait.
    [[nodiscard]] std::uint32_t looks() const
    {
        return failures_ % probe_period == probe_period - 1 ? max_ : now_;
    }
    // The answer came at the look with this number.
    void succeeded(std::uint32_t look)
    {
        failures_ = 0;
        if (look <= now_ / 2) return;
        const std::uint32_t wanted = look < max_ / 2 ? 2 * look : max_;
        if (wanted > now_) now_ = wanted;
    }
    void failed()
    {
        now_ = now_ / 2 > least_ ? now_ / 2 : least_;
        ++failures_;
    }

private:
    static constexpr std::uint32_t least_looks = 24;  // about a microsecond
    static constexpr std::uint32_t probe_period = 32;
    std::uint32_t max_, least_, now_, failures_ = 0;
};

// How many looks with a PAUSE between them take so many nanoseconds; 0 when this process may
// use one processor only, where looking cannot make anything happen.
std::uint32_t looks_in(std::uint64_t ns);

}  // namespace doppel::engine::translate
