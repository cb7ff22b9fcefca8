// i8042 keyboard controller, as much of it as a machine without a screen has: self test,
// configuration byte, output port with A20 and the reset pulse, and a keyboard that
// answers its commands and is never typed on. There is no auxiliary port.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/bus_range.h"
#include "bus/interrupts.h"

namespace doppel::devices {

class I8042 {
public:
    // reset_machine: from a vCPU's thread, with the device lock held.
    I8042(bus::InterruptSink& interrupts, std::function<void()> reset_machine);

    // To claim, one port each: data at 0x60, status and command at 0x64.
    [[nodiscard]] bus::BusDevice& data_port() { return data_port_; }
    [[nodiscard]] bus::BusDevice& command_port() { return command_port_; }

    void reset();
    void save(base::StateWriter& writer) const { writer.section("i8042", 1, state_); }
    base::Result<void> load(const base::StateReader& reader);

    static constexpr unsigned queue_size = 16;
    struct State {
        std::array<std::uint8_t, 32> memory;       // byte 0: configuration
        std::array<std::uint8_t, queue_size> queue; // for the guest to read, oldest first
        std::uint8_t queued;
        std::uint8_t last;              // what port 0x60 gives when nothing is queued
        std::uint8_t command;           // controller command that waits for its data byte; 0
        std::uint8_t keyboard_command;  // the same of the keyboard's
        std::uint8_t output_port;
        std::uint8_t after_command;     // status bit 3: the last write was to port 0x64
        std::uint8_t scan_set;          // 1-3
        std::uint8_t leds;
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    void read_data_port(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_data_port(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    void read_command_port(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_command_port(std::uint64_t offset, std::span<const std::byte> data) noexcept;

    void answer(std::uint8_t value);
    [[nodiscard]] std::uint8_t take();
    void write_command(std::uint8_t command);
    void write_data(std::uint8_t value);
    void write_output_port(std::uint8_t value);
    void keyboard(std::uint8_t value);
    void update();

    bus::InterruptSink& interrupts_;
    std::function<void()> reset_machine_;
    State state_{};
    bus::BusRange<I8042> data_port_{*this, &I8042::read_data_port,
                                    &I8042::write_data_port};
    bus::BusRange<I8042> command_port_{*this, &I8042::read_command_port,
                                       &I8042::write_command_port};
};

}  // namespace doppel::devices
