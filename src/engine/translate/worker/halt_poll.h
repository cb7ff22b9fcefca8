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

    // A halt lasted so long, looking included. beside_devices: see DeviceLoad; then the guest halts
    // when it has asked for all that it may, and how soon it goes on is how fast they work.
    void ended(std::uint64_t ns, bool beside_devices)
    {
        const std::uint64_t most = beside_devices ? most_beside_devices_ns : most_ns;
        if (ns > most) {
            window_ns_ /= 4;
            if (window_ns_ < least_ns) window_ns_ = 0;
        } else if (ns > window_ns_) {
            window_ns_ = std::clamp(window_ns_ * 2, least_ns, most);
        }
    }
    // Looking kept others from this processor.
    void contended() { window_ns_ = 0; }

    static constexpr std::uint64_t least_ns = 20'000, most_ns = 200'000;
    static constexpr std::uint64_t most_beside_devices_ns = 500'000;

private:
    std::uint64_t window_ns_ = 0;
};

}  // namespace doppel::engine::translate
