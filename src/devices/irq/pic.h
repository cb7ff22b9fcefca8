// The PC's pair of 8259A interrupt controllers (Intel 8259A datasheet) with the edge/level
// control registers (ELCR) of its chipsets. The slave hangs on the master's input 2.
//
// The INTR output is reported through a callback whenever it changes. No lock of its own.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"

namespace doppel::devices {

class Pic {
public:
    using Output = std::function<void(bool level)>;
    explicit Pic(Output intr);

    // To claim: master at 0x20 (2 ports), slave at 0xa0 (2), ELCR at 0x4d0 (2).
    [[nodiscard]] bus::BusDevice& master_ports() { return master_ports_; }
    [[nodiscard]] bus::BusDevice& slave_ports() { return slave_ports_; }
    [[nodiscard]] bus::BusDevice& elcr_ports() { return elcr_ports_; }

    // irq 0-15; 2 is the cascade and ignored.
    void set_line(unsigned irq, bool level);
    // INTA cycle: the vector; that of input 7 when the request has gone (spurious).
    [[nodiscard]] std::uint8_t acknowledge();
    [[nodiscard]] bool intr() const { return state_.intr != 0; }
    [[nodiscard]] std::uint64_t spurious() const { return spurious_; }

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    // Flags are 0 or 1.
    struct Chip {
        std::uint8_t irr;
        std::uint8_t isr;
        std::uint8_t imr;
        std::uint8_t lines;        // levels of the input pins
        std::uint8_t elcr;         // 1: level-triggered
        std::uint8_t vector_base;  // ICW2, low three bits zero
        std::uint8_t lowest;       // input of lowest priority, 7 after initialisation
        std::uint8_t init_step;    // 0: ready, else which ICW (2, 3, 4) comes next
        std::uint8_t needs_icw4;
        std::uint8_t single;  // ICW1.SNGL
        std::uint8_t auto_eoi;
        std::uint8_t rotate_on_auto_eoi;
        std::uint8_t special_mask;
        std::uint8_t special_fully_nested;
        std::uint8_t poll;
        std::uint8_t read_isr;  // OCW3: a read of the command port gives ISR, not IRR
        bool operator==(const Chip&) const = default;
    };
    struct State {
        std::array<Chip, 2> chips;
        std::uint8_t intr;
        bool operator==(const State&) const = default;
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    struct Ports final : bus::BusDevice {
        Ports(Pic& owner, unsigned number) : pic(owner), chip(number) {}
        void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
        void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;
        Pic& pic;
        unsigned chip;
    };
    struct ElcrPorts final : bus::BusDevice {
        explicit ElcrPorts(Pic& owner) : pic(owner) {}
        void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
        void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;
        Pic& pic;
    };

    void reset_chip(unsigned index);
    void set_input(unsigned index, unsigned input, bool level);
    // Input with the highest priority request that may interrupt now; -1: none.
    [[nodiscard]] int pending(unsigned index) const;
    // Request -> in service (or done, with automatic EOI).
    void take(unsigned index, unsigned input);
    void write_command(unsigned index, std::uint8_t value);
    void write_data(unsigned index, std::uint8_t value);
    void write_ocw2(Chip& chip, std::uint8_t value);
    [[nodiscard]] std::uint8_t read_command(unsigned index);
    [[nodiscard]] std::uint8_t poll(unsigned index);
    void update();

    Output output_;
    State state_{};
    std::uint64_t spurious_ = 0;
    Ports master_ports_{*this, 0};
    Ports slave_ports_{*this, 1};
    ElcrPorts elcr_ports_{*this};
};

}  // namespace doppel::devices
