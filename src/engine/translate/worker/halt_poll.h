// How long to look for an interrupt in HLT before sleeping.
//
// Waking a sleeper takes the host some tens of microseconds, which a guest that waits for its disk
// pays at every request. A guest that is idle must cost nothing. So the window grows while halts
// end soon, and goes as soon as one lasts.
#pragma once

#include <algorithm>
#include <cstdint>

namespace doppel::engine::translate {

class HaltPoll {
public:
    [[nodiscard]] std::uint64_t window_ns() const { return window_ns_; }

    // A halt lasted so long, looking included.
    void ended(std::uint64_t ns)
    {
        if (ns > most_ns) {
            window_ns_ /= 4;
            if (window_ns_ < least_ns) window_ns_ = 0;
        } else if (ns > window_ns_) {
            window_ns_ = std::clamp(window_ns_ * 2, least_ns, most_ns);
        }
    }
    // Looking kept others from this processor.
    void contended() { window_ns_ = 0; }

    static constexpr std::uint64_t least_ns = 20'000, most_ns = 200'000;

private:
    std::uint64_t window_ns_ = 0;
};

}  // namespace doppel::engine::translate
