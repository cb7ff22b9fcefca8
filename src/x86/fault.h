// A fault the guest sees. A value, never an error.
#pragma once

#include <cstdint>
#include <optional>

#include "x86/registers.h"

namespace doppel::x86 {

struct Fault {
    Vector vector{};
    bool has_error_code = false;
    std::uint32_t error_code = 0;
    std::uint64_t address = 0;  // CR2 for #PF; DR6 bits to set for #DB

    bool operator==(const Fault&) const = default;
};

// SDM volume 3 table 6-1: which exceptions push an error code.
constexpr bool pushes_error_code(Vector vector)
{
    switch (vector) {
    case Vector::DF: case Vector::TS: case Vector::NP: case Vector::SS:
    case Vector::GP: case Vector::PF: case Vector::AC:
        return true;
    default:
        return false;
    }
}

constexpr Fault make_fault(Vector vector, std::uint32_t error_code = 0)
{
    return {vector, pushes_error_code(vector), error_code, 0};
}

constexpr Fault make_page_fault(std::uint32_t error_code, std::uint64_t address)
{
    return {Vector::PF, true, error_code, address};
}

}  // namespace doppel::x86
