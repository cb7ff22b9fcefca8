// ACPI power management timer (ACPI 6.5 section 4.8.3.3): 3.579545 MHz, 24 or 32 bits,
// read-only. Its wrap raises no SCI: TMR_EN is not implemented, since no OS uses it.
#pragma once

#include <cstdint>

#include "bus/bus.h"
#include "bus/clock.h"

namespace doppel::devices {

class PmTimer final : public bus::BusDevice {
public:
    static constexpr std::uint64_t hz = 3'579'545;
    static constexpr std::uint64_t port_count = 4;
    enum class Width { bits_24, bits_32 };  // as FADT.TMR_VAL_EXT says

    PmTimer(bus::VmClock& clock, Width width) : clock_(clock), width_(width) {}

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t, std::span<const std::byte>) noexcept override {}
    // Its only state is the clock's.
    void reset() {}

private:
    bus::VmClock& clock_;
    Width width_;
};

}  // namespace doppel::devices
