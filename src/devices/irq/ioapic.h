// I/O APIC with 24 pins and an EOI register (Intel 82093AA datasheet, version 0x20 as in
// the ICH chipsets), sending its messages in MSI form to the local APICs.
#pragma once

#include <array>
#include <cstdint>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/interrupts.h"

namespace doppel::devices {

class IoApic final : public bus::BusDevice {
public:
    static constexpr std::uint64_t default_address = 0xfec00000;
    static constexpr std::uint64_t window_size = 0x1000;
    static constexpr unsigned pin_count = 24;

    explicit IoApic(bus::LocalInterrupts& local) : local_(local) { reset(); }

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;

    void set_pin(unsigned pin, bool level) noexcept;
    // A local APIC was told EOI for a level-triggered vector.
    void end_of_interrupt(std::uint8_t vector) noexcept;

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    // Bits of a redirection entry.
    static constexpr std::uint64_t delivery_status = 1u << 12;
    static constexpr std::uint64_t polarity_low = 1u << 13;
    static constexpr std::uint64_t remote_irr = 1u << 14;
    static constexpr std::uint64_t level_triggered = 1u << 15;
    static constexpr std::uint64_t masked = 1u << 16;

    struct State {
        std::array<std::uint64_t, pin_count> redirection;
        std::uint32_t pins;  // levels
        std::uint32_t irr;   // edges that came while masked are lost; levels follow the pin
        std::uint8_t index;  // IOREGSEL
        std::uint8_t id;     // 4 bits
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    [[nodiscard]] std::uint32_t read_register() const;
    void write_register(std::uint32_t value);
    // Sends the pin's message if it is requested, not masked and not in service.
    void service(unsigned pin);

    bus::LocalInterrupts& local_;
    State state_{};
};

}  // namespace doppel::devices
