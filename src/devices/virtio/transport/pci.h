// Virtio over PCI, Virtio 1.2 section 4.1, with the legacy interface (section 4.1.4.10) where the
// device type has one.
//
//   BAR 0  I/O     legacy registers
//   BAR 1  memory  MSI-X table and pending bits
//   BAR 4  memory  0x0000 common, 0x1000 ISR, 0x2000 device's configuration, 0x3000 notification
#pragma once

#include <memory>

#include "bus/bus_range.h"
#include "devices/pci/msix.h"
#include "devices/pci/pci_function.h"
#include "devices/pci/shared_line.h"
#include "devices/virtio/transport/frontend.h"

namespace doppel::devices::virtio {

struct PciWiring {
    bus::InterruptSink& interrupts;
    SharedLine& line;    // INTA#
    unsigned slot = 0;   // user of the line
    bool legacy = true;  // if the device type has that interface
};

// Threads: as PciFunction.
class PciTransport final : public PciFunction, private TransportEvents {
public:
    PciTransport(std::unique_ptr<Frontend> frontend, const PciWiring& wiring);
    ~PciTransport() override;

    [[nodiscard]] Frontend& frontend() { return *frontend_; }

    void read_config(unsigned offset, std::span<std::byte> data) noexcept override;
    void write_config(unsigned offset, std::span<const std::byte> data) noexcept override;

    void reset() override;
    void save(base::StateWriter& writer);
    base::Result<void> load(const base::StateReader& reader);

private:
    static constexpr std::size_t common_size = 0x40;
    enum class Driver { modern, legacy };

    void define_capabilities();
    void mapping_changed() noexcept override;
    void interrupt(std::uint64_t queues, bool config) noexcept override;
    std::optional<bus::DoorbellAddress> doorbell_address(unsigned queue) const override;
    void update_line() noexcept;
    [[nodiscard]] std::uint16_t checked_vector(std::uint64_t vector) const;
    [[nodiscard]] std::uint8_t take_isr() noexcept;
    void transport_reset() noexcept;

    void read_modern(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_modern(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    [[nodiscard]] std::array<std::byte, common_size> common() const;
    void write_common(std::uint64_t offset, std::span<const std::byte> data);
    void write_queue(std::uint64_t offset, std::span<const std::byte> data);

    void read_legacy(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_legacy(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    [[nodiscard]] std::array<std::byte, 24> legacy_registers() const;
    [[nodiscard]] std::size_t legacy_config_offset() const { return msix_.enabled() ? 24 : 20; }
    void place_legacy_queue(std::uint32_t page);

    // Access through config space, for those that cannot reach the BARs.
    [[nodiscard]] bool in_window(unsigned offset, std::size_t size) const;
    [[nodiscard]] bus::BusDevice* window_target(std::uint64_t& offset, std::size_t& size);

    struct State {
        std::uint32_t offered_select, accepted_select;
        std::uint16_t queue_select;
        std::uint16_t config_vector;
        std::uint8_t isr;
        std::uint8_t legacy_driver;
        std::uint8_t reserved[2];
    };
    std::unique_ptr<Frontend> frontend_;
    PciWiring wiring_;
    Msix msix_;
    State state_{};
    bus::BusRange<PciTransport> modern_{*this, &PciTransport::read_modern,
                                        &PciTransport::write_modern};
    bus::BusRange<PciTransport> legacy_{*this, &PciTransport::read_legacy,
                                        &PciTransport::write_legacy};
};

}  // namespace doppel::devices::virtio
