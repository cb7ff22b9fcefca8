// Threads that are kept on a processor, or off one, are left to the host for a moment now and then, in
// which it may place them anew.
#pragma once

#include <cstdint>

namespace doppel::engine::translate {

struct HostMoment {
    static constexpr std::uint64_t every_ticks = 400'000'000;  // 0.2 s, about
    static constexpr std::uint64_t ticks = 4'000'000;
    [[nodiscard]] static constexpr bool at(std::uint64_t tsc) { return tsc % every_ticks < ticks; }
};

}  // namespace doppel::engine::translate
