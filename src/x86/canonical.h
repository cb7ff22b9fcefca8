// Linear addresses that a processor in 64-bit mode takes (SDM volume 1 section 3.3.7.1).
#pragma once

#include <cstdint>

namespace doppel::x86 {

// Of 48 bits, sign-extended.
constexpr bool canonical(std::uint64_t address)
{
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}

}  // namespace doppel::x86
