// MSI-X: a table of interrupt messages with a mask each, and the pending bits. PCI 3.0 section 6.8.2.
//
// Threads: with the device lock held.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/interrupts.h"

namespace doppel::devices {

// What is behind the BAR: the table at its beginning, pending bits in its second half.
class Msix final : public bus::BusDevice {
public:
    static constexpr unsigned most_vectors = 64;
    static constexpr std::uint32_t bar_size = 4096, pending_offset = 2048;
    static constexpr std::uint16_t control_enable = 0x8000, control_mask_all = 0x4000;

    Msix(bus::InterruptSink& sink, unsigned vectors);

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;

    // The message control register of the capability.
    void set_control(std::uint16_t control) noexcept;
    [[nodiscard]] bool enabled() const { return (control_ & control_enable) != 0; }
    [[nodiscard]] unsigned vectors() const { return vectors_; }

    // Sends the message, or keeps it while it is masked. While not enabled: nothing. vector: any.
    void raise(unsigned vector) noexcept;

    void reset();
    void save(base::StateWriter& writer, std::string_view section) const;
    // `control` as it stands in config space.
    base::Result<void> load(const base::StateReader& reader, std::string_view section,
                            std::uint16_t control);

private:
    struct Entry {
        std::uint64_t address;
        std::uint32_t data;
        std::uint32_t control;  // bit 0: masked
    };
    struct State {
        std::array<Entry, most_vectors> entries;
        std::uint64_t pending;
    };
    [[nodiscard]] bool masked(unsigned vector) const;
    void send_pending() noexcept;

    bus::InterruptSink& sink_;
    unsigned vectors_;
    std::uint16_t control_ = 0;
    State state_{};
};

}  // namespace doppel::devices
