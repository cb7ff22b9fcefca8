// Configuration space of one PCI function: 4096 bytes with per-bit write rights, and base
// address registers that can be sized. PCI 3.0 section 6, PCI Express base 7.5.
//
// Threads: as BusDevice, with the device lock held.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"

namespace doppel::devices {

struct PciIdentity {
    std::uint16_t vendor = 0;
    std::uint16_t device = 0;
    std::uint32_t class_code = 0;  // 24 bits: class, subclass, programming interface
    std::uint8_t revision = 0;
    std::uint16_t subsystem_vendor = 0;
    std::uint16_t subsystem = 0;
};

class PciFunction {
public:
    static constexpr unsigned config_size = 4096;
    static constexpr unsigned bar_count = 6;

    // name: of the section in a saved state, unique per function.
    PciFunction(std::string name, const PciIdentity& identity);
    PciFunction(const PciFunction&) = delete;
    PciFunction& operator=(const PciFunction&) = delete;
    virtual ~PciFunction() = default;

    // offset + data.size() <= config_size, within one aligned dword or qword.
    virtual void read_config(unsigned offset, std::span<std::byte> data) noexcept;
    virtual void write_config(unsigned offset, std::span<const std::byte> data) noexcept;

    // A BAR and what is behind it; nobody: the function has no such BAR.
    struct Window {
        bus::Space space = bus::Space::memory;
        std::uint64_t address = 0;  // 0: not decoded
        std::uint64_t size = 0;
        bus::BusDevice* device = nullptr;
        bool operator==(const Window&) const = default;
    };
    [[nodiscard]] Window window(unsigned index) const;
    // As firmware does: puts a BAR somewhere, and lets the function decode.
    void place_bar(unsigned index, std::uint64_t address);
    void enable_decoding();

    virtual void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

protected:
    // A memory BAR of a power-of-two size >= 16 (64-bit ones take two slots), before any access.
    // `device` gets the accesses wherever the guest puts the BAR; it outlives the function.
    void define_memory_bar(unsigned index, std::uint64_t size, bool is_64bit, bool prefetchable,
                           bus::BusDevice& device);
    void define_io_bar(unsigned index, std::uint32_t size, bus::BusDevice& device);
    // Value after reset, and which bits the guest may change.
    void define_register(unsigned offset, unsigned size, std::uint32_t value, std::uint32_t writable);
    // Where a BAR is now; 0 while decoding is off in the command register.
    [[nodiscard]] std::uint64_t bar_address(unsigned index) const;
    [[nodiscard]] std::uint16_t command() const;
    [[nodiscard]] std::uint32_t dword(unsigned offset) const;
    // Called after the command register or a BAR has changed.
    virtual void mapping_changed() noexcept {}

private:

    struct State {
        std::array<std::uint8_t, config_size> config;
    };
    std::string name_;
    State state_{};
    std::array<std::uint8_t, config_size> initial_{};
    std::array<std::uint8_t, config_size> writable_{};
    std::array<Window, bar_count> bars_{};  // without their addresses
};

}  // namespace doppel::devices
