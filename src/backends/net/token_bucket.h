// So much a second, and a burst after idling. Time is a parameter.
#pragma once

#include <algorithm>
#include <cstdint>

namespace doppel::backends {

class TokenBucket {
public:
    // rate: tokens a second, at most 2^50; 0: no limit. burst: how many may be saved up; 0: those
    // of a tenth of a second.
    TokenBucket(std::uint64_t rate, std::uint64_t burst, std::uint64_t now_ns)
        : rate_(rate),
          burst_(burst != 0 ? burst : std::max<std::uint64_t>(rate / 10, 1)),
          full_ns_(now_ns)
    {
    }

    // When something may be taken: `now` or before it if at once. What costs more than the burst
    // may go when the bucket is not in debt, and leaves a debt: large frames are never stuck.
    [[nodiscard]] std::uint64_t ready_ns() const
    {
        if (rate_ == 0) return 0;
        const std::uint64_t saved = duration(burst_);
        return full_ns_ > saved ? full_ns_ - saved : 0;
    }
    void take(std::uint64_t tokens, std::uint64_t now_ns)
    {
        if (rate_ != 0) full_ns_ = std::max(full_ns_, now_ns) + duration(tokens);
    }

private:
    [[nodiscard]] std::uint64_t duration(std::uint64_t tokens) const
    {
        __extension__ using Wide = unsigned __int128;
        const Wide ns = Wide{tokens} * 1'000'000'000 / rate_;
        constexpr std::uint64_t year_ns = 31'536'000'000'000'000;
        return ns > year_ns ? year_ns : static_cast<std::uint64_t>(ns);
    }

    std::uint64_t rate_, burst_;
    std::uint64_t full_ns_;  // when the bucket is full again, if nobody takes more
};

}  // namespace doppel::backends
