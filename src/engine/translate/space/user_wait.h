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

// How long to look at the other side's word before sleeping. Being woken on an idle processor
// takes tens of microseconds, so looking pays for as long, unless others want the processors:
// then looking only keeps the other side from answering. A look that comes late tells that this
// thread was not running; for a while after it nobody looks for long.
class SpinBudget {
public:
    explicit SpinBudget(std::uint32_t max) : max_(max), least_(max < least_looks ? max : least_looks)
    {
    }
    // Looks to spend on a wait that begins at this host TSC.
    [[nodiscard]] std::uint32_t looks(std::uint64_t tsc) const
    {
        return tsc < contended_until_ ? least_ : max_;
    }
    // Two looks came at these host TSCs. False: the thread was preempted in between.
    [[nodiscard]] bool looked(std::uint64_t before, std::uint64_t now)
    {
        if (now - before < preempted_ticks) return true;
        contended_until_ = now + contended_ticks;
        return false;
    }

private:
    static constexpr std::uint32_t least_looks = 24;           // about a microsecond
    static constexpr std::uint64_t preempted_ticks = 60'000;   // 20 to 30 microseconds
    static constexpr std::uint64_t contended_ticks = 60'000'000;
    std::uint32_t max_, least_;
    std::uint64_t contended_until_ = 0;
};

// How many looks with a PAUSE between them take so many nanoseconds; 0 when this process may
// use one processor only, where looking cannot make anything happen.
std::uint32_t looks_in(std::uint64_t ns);

}  // namespace doppel::engine::translate
