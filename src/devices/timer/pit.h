// Intel 8254 programmable interval timer, and port 0x61 (system control port B) that
// gates and reads its channel 2.
//
// Counters are computed from the VM's clock when they are looked at. Channel 0 raises
// IRQ 0 through a timer at each rising edge of its output. Catch-up policy: a timer that
// comes late raises one interrupt for all periods it missed and goes on in phase; a guest
// that counts ticks falls behind by the missed ones, and none gets a storm of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/bus_range.h"
#include "bus/clock.h"
#include "bus/interrupts.h"

namespace doppel::devices {

class Pit {
public:
    static constexpr std::uint64_t hz = 1'193'182;

    Pit(bus::Bus& bus, bus::InterruptSink& interrupts, bus::VmClock& clock);

    // To claim: counters at 0x40 (4 ports), port B at 0x61 (1).
    [[nodiscard]] bus::BusDevice& counter_ports() { return counter_ports_; }
    [[nodiscard]] bus::BusDevice& port_b() { return port_b_; }

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    // Flags are 0 or 1.
    struct Channel {
        std::uint64_t start_tick;  // when counting (re)started, in PIT ticks of the VM's clock
        std::uint64_t held_ticks;  // while the gate holds it: ticks counted so far
        std::uint32_t count;       // the reload value, 1 to 0x10000 (10000 in BCD); 0: none yet
        std::uint16_t latch;
        std::uint8_t control;      // bits 5:0 of the control word
        std::uint8_t written_low;  // the first byte of a two-byte count
        std::uint8_t write_high;   // the second byte comes next
        std::uint8_t read_high;
        std::uint8_t latched;      // bytes of `latch` left to read, 0-2
        std::uint8_t status_latched;
        std::uint8_t status;
        std::uint8_t gate;
        std::uint8_t running;      // counting has begun (modes 1 and 5 wait for the gate)
    };
    struct State {
        std::array<Channel, 3> channels;
        std::uint8_t speaker;  // port B bit 1
    };
    [[nodiscard]] const State& state() const { return state_; }

    // Level of a channel's OUT pin now.
    [[nodiscard]] bool output(unsigned channel) const;

private:
    void read_counter_ports(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_counter_ports(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    void read_port_b(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_port_b(std::uint64_t offset, std::span<const std::byte> data) noexcept;

    [[nodiscard]] std::uint64_t now() const;
    [[nodiscard]] std::uint64_t elapsed(const Channel& channel) const;
    [[nodiscard]] std::uint16_t counter(const Channel& channel) const;
    void write_control(std::uint8_t value);
    void write_count(unsigned index, std::uint8_t value);
    void load_count(unsigned index, std::uint32_t value);
    [[nodiscard]] std::uint8_t read_count(unsigned index);
    void latch_count(Channel& channel);
    void latch_status(unsigned index);
    void set_gate(unsigned index, bool level);
    // Channel 0: drives IRQ 0 and arms the timer for the next edge.
    void schedule();
    void on_timer();

    bus::Bus& bus_;
    bus::InterruptSink& interrupts_;
    bus::VmClock& clock_;
    std::unique_ptr<bus::Timer> timer_;
    State state_{};
    bus::BusRange<Pit> counter_ports_{*this, &Pit::read_counter_ports,
                                      &Pit::write_counter_ports};
    bus::BusRange<Pit> port_b_{*this, &Pit::read_port_b,
                               &Pit::write_port_b};
};

}  // namespace doppel::devices
