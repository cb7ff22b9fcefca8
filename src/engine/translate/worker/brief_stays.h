// Where the kernel returns to a program that calls it again, or faults, a few instructions later.
//
// Handing over to the program's process and back costs as much as interpreting some forty
// instructions, many times that where the process sleeps. So a place that is returned to again and
// again is tried; where it took longer after all, it is left alone for longer each time.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace doppel::engine::translate {

// Threads: the vCPU's.
class BriefStays {
public:
    // Instructions worth interpreting.
    static constexpr std::uint64_t most_instructions = 48;

    // The kernel returns to this guest address. True: its stay is worth a try.
    [[nodiscard]] bool expected(std::uint64_t rip)
    {
        Place& place = at(rip);
        if (place.rip != rip) place = {rip, first_wait, first_wait};
        if (place.wait == 0) return true;
        --place.wait;
        return false;
    }
    // How the try ended.
    void tried(std::uint64_t rip, bool brief)
    {
        Place& place = at(rip);
        if (brief) {
            place.penalty = std::max(place.penalty / 2, first_wait);
        } else {
            place.penalty = std::min(place.penalty * growth, longest_wait);
            place.wait = place.penalty;
        }
    }

    static constexpr std::uint32_t first_wait = 8, growth = 8, longest_wait = 8 * 8 * 8 * 8;

private:
    struct Place {
        std::uint64_t rip = ~std::uint64_t{0};
        std::uint32_t wait = 0;     // returns until it is tried
        std::uint32_t penalty = 0;  // of the last failure
    };
    static constexpr unsigned bits = 10;
    [[nodiscard]] Place& at(std::uint64_t rip)
    {
        return places_[(rip * 0x9e3779b97f4a7c15) >> (64 - bits)];
    }
    std::array<Place, 1u << bits> places_;
};

}  // namespace doppel::engine::translate
