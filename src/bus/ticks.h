// Conversion between nanoseconds and the ticks of a counter, without overflow.
#pragma once

#include <cstdint>

namespace doppel::bus {

inline constexpr std::uint64_t ns_per_second = 1'000'000'000;

__extension__ using Wide = unsigned __int128;

// value * numerator / denominator, rounded down; saturates at 2^64 - 1.
[[nodiscard]] constexpr std::uint64_t mul_div(std::uint64_t value, std::uint64_t numerator,
                                              std::uint64_t denominator)
{
    const Wide result = Wide{value} * numerator / denominator;
    return result > ~std::uint64_t{0} ? ~std::uint64_t{0} : static_cast<std::uint64_t>(result);
}

// The same, rounded up: the first nanosecond at which a counter has reached a tick.
[[nodiscard]] constexpr std::uint64_t mul_div_up(std::uint64_t value, std::uint64_t numerator,
                                                 std::uint64_t denominator)
{
    const Wide result = (Wide{value} * numerator + denominator - 1) / denominator;
    return result > ~std::uint64_t{0} ? ~std::uint64_t{0} : static_cast<std::uint64_t>(result);
}

[[nodiscard]] constexpr std::uint64_t ns_to_ticks(std::uint64_t ns, std::uint64_t hz)
{
    return mul_div(ns, hz, ns_per_second);
}
[[nodiscard]] constexpr std::uint64_t ticks_to_ns(std::uint64_t ticks, std::uint64_t hz)
{
    return mul_div_up(ticks, ns_per_second, hz);
}

}  // namespace doppel::bus
