// National Semiconductor PC16550D: the PC's serial port, 8 ports.
//
// Output leaves at once, as far as the backend has room: the transmitter is "empty" while
// the backend has room for a whole FIFO, so a guest that waits for THRE is held back by a
// slow host. A guest that writes regardless fills the transmit FIFO and then loses bytes,
// as on the chip.
//
// Input stays in the backend until the guest listens: until it has enabled the receive
// interrupt and its way out (OUT2), or polls (reads LSR 32 times in a row with no data and
// nothing else). So what is typed before the guest's driver starts is not lost to its FIFO
// resets.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "backends/character/character_backend.h"
#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/clock.h"
#include "bus/interrupts.h"

namespace doppel::devices {

class Uart16550 final : public bus::BusDevice {
public:
    static constexpr std::uint64_t port_count = 8;
    static constexpr unsigned fifo_size = 16;

    // irq: the line it drives. The backend's callbacks become this device's.
    Uart16550(bus::Bus& bus, bus::InterruptSink& interrupts, unsigned irq, bus::VmClock& clock,
              backends::CharacterBackend& backend);
    Uart16550(const Uart16550&) = delete;
    Uart16550& operator=(const Uart16550&) = delete;
    // The event loop must no longer run.
    ~Uart16550() override;

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    // Flags are 0 or 1.
    struct State {
        std::uint16_t divisor;
        std::uint8_t ier;
        std::uint8_t fcr;  // bits 7:6 trigger level, 3 DMA mode, 0 FIFOs on
        std::uint8_t lcr;
        std::uint8_t mcr;
        std::uint8_t lsr_errors;  // OE, PE, FE, BI (bits 4:1) until LSR is read
        std::uint8_t msr_delta;   // bits 3:0 until MSR is read
        std::uint8_t modem_inputs;  // bits 7:4 as in MSR: CTS, DSR, RI, DCD
        std::uint8_t scratch;
        std::uint8_t thre_pending;     // the "transmitter empty" interrupt waits to be seen
        std::uint8_t timeout_pending;  // the character timeout interrupt
        std::uint8_t idle_polls;       // reads of LSR in a row without data, up to 32
        std::uint8_t receive_count;
        std::uint8_t transmit_count;
        std::array<std::uint8_t, fifo_size> receive;   // oldest first
        std::array<std::uint8_t, fifo_size> transmit;  // oldest first
        std::uint64_t timeout_ns;                      // VM time; 0: not running
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    [[nodiscard]] std::uint8_t read_register(unsigned offset);
    void write_register(unsigned offset, std::uint8_t value);
    [[nodiscard]] std::uint8_t line_status();
    [[nodiscard]] std::uint8_t interrupt_identification() const;
    [[nodiscard]] std::uint8_t modem_status() const;
    void write_fifo_control(std::uint8_t value);
    void write_modem_control(std::uint8_t value);
    void transmit(std::uint8_t value);
    void drain_transmitter();
    [[nodiscard]] bool transmitter_ready() const;
    [[nodiscard]] std::uint8_t take_received();
    void receive(std::uint8_t value);
    [[nodiscard]] bool listening() const;
    void pull_input();
    void start_timeout();
    void set_modem_inputs(std::uint8_t inputs);
    void update_line();

    [[nodiscard]] bool fifos_on() const { return (state_.fcr & 1) != 0; }
    [[nodiscard]] bool loopback() const { return (state_.mcr & 0x10) != 0; }
    [[nodiscard]] unsigned depth() const { return fifos_on() ? fifo_size : 1; }
    [[nodiscard]] unsigned trigger() const;

    bus::Bus& bus_;
    bus::InterruptSink& interrupts_;
    unsigned irq_;
    bus::VmClock& clock_;
    backends::CharacterBackend& backend_;
    std::unique_ptr<bus::Timer> timeout_;
    State state_{};
    bool thre_was_ready_ = true;
    bool line_ = false;
};

}  // namespace doppel::devices
