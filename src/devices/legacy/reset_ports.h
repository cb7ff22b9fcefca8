// System control port A (0x92: fast A20 and reset) and the reset control register
// (0xcf9, Intel ICH datasheet "RST_CNT").
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/bus_range.h"

namespace doppel::devices {

class ResetPorts {
public:
    // From a vCPU's thread, with the device lock held: the callback must only make a note.
    explicit ResetPorts(std::function<void()> reset_machine)
        : reset_machine_(std::move(reset_machine))
    {
    }

    // To claim: 0x92 (1 port). 0xcf9 lies inside the four bytes of the PCI configuration
    // address: give reset_control() to PciHost::set_reset_control().
    [[nodiscard]] bus::BusDevice& port_a() { return port_a_; }
    [[nodiscard]] bus::BusDevice& reset_control() { return reset_control_; }

    // A20 is always open here: no system of the last decades closes it, and it is not
    // wired to the CPU. The bit can be written and read back.
    void reset() { state_ = {2, 0}; }
    void save(base::StateWriter& writer) const { writer.section("reset_ports", 1, state_); }
    base::Result<void> load(const base::StateReader& reader);

    struct State {
        std::uint8_t port_a;
        std::uint8_t reset_control;
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    void read_port_a(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_port_a(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    void read_reset_control(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_reset_control(std::uint64_t offset, std::span<const std::byte> data) noexcept;

    std::function<void()> reset_machine_;
    State state_{2, 0};
    bus::BusRange<ResetPorts> port_a_{*this, &ResetPorts::read_port_a,
                                      &ResetPorts::write_port_a};
    bus::BusRange<ResetPorts> reset_control_{*this, &ResetPorts::read_reset_control,
                                             &ResetPorts::write_reset_control};
};

}  // namespace doppel::devices
