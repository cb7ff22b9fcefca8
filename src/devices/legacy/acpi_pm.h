// ACPI fixed hardware (ACPI 6.5 section 4.8): PM1a event and control blocks, GPE0, and
// the SCI line. Power-off is S5 written to PM1a control; the power button is an event.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/interrupts.h"

namespace doppel::devices {

class AcpiPm {
public:
    static constexpr std::uint64_t event_size = 4;    // PM1_STS, PM1_EN
    static constexpr std::uint64_t control_size = 2;  // PM1_CNT
    static constexpr std::uint64_t gpe0_size = 4;     // 2 bytes of status, 2 of enable

    struct Config {
        unsigned sci;               // the line it drives, level-triggered (9 on a PC)
        std::uint8_t s5_sleep_type; // SLP_TYP of S5, as \_S5 in the DSDT says
    };
    // power_off: from a vCPU's thread, with the device lock held.
    AcpiPm(bus::InterruptSink& interrupts, const Config& config, std::function<void()> power_off);

    [[nodiscard]] bus::BusDevice& event_block() { return event_block_; }
    [[nodiscard]] bus::BusDevice& control_block() { return control_block_; }
    [[nodiscard]] bus::BusDevice& gpe0_block() { return gpe0_block_; }

    // Device lock held.
    void press_power_button();
    void raise_gpe(unsigned number);  // 0-15

    void reset();
    void save(base::StateWriter& writer) const { writer.section("acpi_pm", 1, state_); }
    base::Result<void> load(const base::StateReader& reader);

    static constexpr std::uint16_t PWRBTN_STS = 1u << 8;
    static constexpr std::uint16_t SCI_EN = 1;
    static constexpr std::uint16_t SLP_EN = 1u << 13;

    struct State {
        std::uint16_t status;
        std::uint16_t enable;
        std::uint16_t control;
        std::uint16_t gpe_status;
        std::uint16_t gpe_enable;
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    struct Block final : bus::BusDevice {
        enum class Kind { event, control, gpe0 };
        Block(AcpiPm& owner, Kind which) : pm(owner), kind(which) {}
        void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
        void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;
        AcpiPm& pm;
        Kind kind;
    };
    [[nodiscard]] std::uint8_t read_byte(Block::Kind kind, std::uint64_t offset) const;
    void write_byte(Block::Kind kind, std::uint64_t offset, std::uint8_t value);
    void update();

    bus::InterruptSink& interrupts_;
    Config config_;
    std::function<void()> power_off_;
    State state_{0, 0, SCI_EN, 0, 0};
    Block event_block_{*this, Block::Kind::event};
    Block control_block_{*this, Block::Kind::control};
    Block gpe0_block_{*this, Block::Kind::gpe0};
};

}  // namespace doppel::devices
