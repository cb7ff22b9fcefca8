// PCI host bridge with one root bus: configuration mechanism #1 (ports 0xcf8 and 0xcfc,
// PCI 3.0 section 3.2.2.3.2) and ECAM (PCI Express base section 7.2.2). A function that is
// not there reads as all ones, and writes to it vanish.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/bus_range.h"
#include "devices/pci/pci_function.h"

namespace doppel::devices {

class PciHost {
public:
    static constexpr unsigned device_count = 32, function_count = 8;
    static constexpr std::uint64_t ecam_bytes_per_bus = 1u << 20;

    PciHost();

    // Claims 8 ports from `config_address` and ECAM for `buses` buses at `ecam`. Accesses of
    // one byte to the second port go to `reset_control`: chipsets put that register (0xcf9)
    // under the address register, which only answers to dwords.
    void claim(bus::Bus& bus, std::uint16_t config_address, std::uint64_t ecam, unsigned buses,
               bus::BusDevice& reset_control);

    // Puts a function on the root bus; the slot must be free. Outlives this.
    void attach(unsigned device, unsigned function, PciFunction& what);

    // Puts what is behind every BAR where the BAR says. After config space changed otherwise than
    // through the bus.
    void map_bars();

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

private:
    void read_address_port(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_address_port(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    void read_data_port(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_data_port(std::uint64_t offset, std::span<const std::byte> data) noexcept;
    void read_ecam(std::uint64_t offset, std::span<std::byte> data) noexcept;
    void write_ecam(std::uint64_t offset, std::span<const std::byte> data) noexcept;

    // Where an access goes: bus, device, function and register from an ECAM-style offset.
    void read_config(std::uint64_t address, std::span<std::byte> data) noexcept;
    void write_config(std::uint64_t address, std::span<const std::byte> data) noexcept;
    [[nodiscard]] PciFunction* find(std::uint64_t address) const;
    // The ECAM offset that the address register selects; false while it is not enabled.
    [[nodiscard]] bool selected(std::uint64_t offset, std::uint64_t& address) const;

    struct State {
        std::uint32_t config_address;
        std::uint32_t reserved;
    };
    State state_{};
    bus::BusDevice* reset_control_ = nullptr;
    std::array<PciFunction*, device_count * function_count> functions_{};
    bus::Bus* bus_ = nullptr;
    std::vector<PciFunction::Window> mapped_;  // as the bus has them
    PciFunction bridge_;
    bus::BusRange<PciHost> address_port_{*this, &PciHost::read_address_port,
                                         &PciHost::write_address_port};
    bus::BusRange<PciHost> data_port_{*this, &PciHost::read_data_port,
                                      &PciHost::write_data_port};
    bus::BusRange<PciHost> ecam_{*this, &PciHost::read_ecam,
                                 &PciHost::write_ecam};
};

}  // namespace doppel::devices
