// Guest-physical and guest-linear addresses as types of their own, so that one
// cannot be passed where the other is meant.
#pragma once

#include <compare>
#include <cstdint>

namespace doppel::base {

inline constexpr std::uint64_t page_size = 4096;
inline constexpr std::uint64_t page_mask = page_size - 1;
inline constexpr unsigned page_shift = 12;

template <typename Tag>
struct Address {
    std::uint64_t value = 0;

    constexpr Address() = default;
    constexpr explicit Address(std::uint64_t v) : value(v) {}
    constexpr auto operator<=>(const Address&) const = default;
    constexpr Address operator+(std::uint64_t delta) const { return Address{value + delta}; }
    constexpr std::uint64_t operator-(Address other) const { return value - other.value; }
    [[nodiscard]] constexpr std::uint64_t page() const { return value >> page_shift; }
    [[nodiscard]] constexpr std::uint64_t page_offset() const { return value & page_mask; }
};

using Gpa = Address<struct GuestPhysicalTag>;  // guest-physical address
using Gva = Address<struct GuestLinearTag>;    // guest-linear address

}  // namespace doppel::base
