// Whether the guest goes from program to program all the time, with a few turns of each.
//
// Waking another process on another processor costs more than all its hand-overs on one would.
#pragma once

#include <algorithm>
#include <cstdint>

namespace doppel::engine::translate {

// Threads: the vCPU's.
class ProcessSwitches {
public:
    // A turn at this host TSC, of the process that had the last one or of another.
    void turn(bool same, std::uint64_t tsc)
    {
        if (same) {
            stay_ = std::min(stay_ + 1, most);
            return;
        }
        // A stay that was long in time is the scheduler's slice: nothing to be gained.
        const unsigned turns = tsc - since_ > long_ticks ? most : stay_;
        mean_ += turns - mean_ / parts;
        stay_ = 1;
        since_ = tsc;
    }
    [[nodiscard]] bool frequent() const { return mean_ < few * parts && stay_ < 4 * few; }

    static constexpr unsigned few = 6;     // turns of a stay, in the mean
    static constexpr unsigned most = 64;
    static constexpr std::uint64_t long_ticks = 2'000'000;  // about a millisecond

private:
    static constexpr unsigned parts = 8;
    unsigned mean_ = most * parts;  // times parts
    unsigned stay_ = 0;
    std::uint64_t since_ = 0;
};

}  // namespace doppel::engine::translate
