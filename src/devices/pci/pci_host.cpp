#include "devices/pci/pci_host.h"

#include <algorithm>

#include "base/bytes.h"

namespace doppel::devices {

namespace {

constexpr std::uint32_t config_enable = 0x80000000;
// Intel 82441FX, which guests know as a bridge without quirks that matter; class 060000.
constexpr PciIdentity bridge_identity{0x8086, 0x1237, 0x060000, 2, 0x1af4, 0x1100};

}  // namespace

PciHost::PciHost() : bridge_("pci-host-bridge", bridge_identity)
{
    attach(0, 0, bridge_);
}

void PciHost::claim(bus::Bus& bus, std::uint16_t config_address, std::uint64_t ecam, unsigned buses,
                    bus::BusDevice& reset_control)
{
    reset_control_ = &reset_control;
    bus_ = &bus;
    bus.claim(bus::Space::port, config_address, 4, address_port_);
    bus.claim(bus::Space::port, config_address + 4u, 4, data_port_);
    bus.claim(bus::Space::memory, ecam, buses * ecam_bytes_per_bus, ecam_);
}

void PciHost::attach(unsigned device, unsigned function, PciFunction& what)
{
    ASSERT(device < device_count && function < function_count);
    PciFunction*& slot = functions_[device * function_count + function];
    ASSERT(slot == nullptr);
    slot = &what;
}

PciFunction* PciHost::find(std::uint64_t address) const
{
    if (address >> 20 != 0) return nullptr;  // only bus 0 has anything
    return functions_[(address >> 12) & 0xff];
}

void PciHost::read_config(std::uint64_t address, std::span<std::byte> data) noexcept
{
    PciFunction* function = find(address);
    const auto offset = static_cast<unsigned>(address & 0xfff);
    if (function == nullptr || offset + data.size() > PciFunction::config_size) {
        std::fill(data.begin(), data.end(), std::byte{0xff});
        return;
    }
    function->read_config(offset, data);
}

void PciHost::write_config(std::uint64_t address, std::span<const std::byte> data) noexcept
{
    PciFunction* function = find(address);
    const auto offset = static_cast<unsigned>(address & 0xfff);
    if (function == nullptr || offset + data.size() > PciFunction::config_size) return;
    function->write_config(offset, data);
    if (offset < 0x28) map_bars();  // the command register and the BARs
}

void PciHost::map_bars()
{
    if (bus_ == nullptr) return;
    std::vector<PciFunction::Window> wanted;
    for (const PciFunction* function : functions_) {
        for (unsigned i = 0; function != nullptr && i < PciFunction::bar_count; ++i) {
            const PciFunction::Window window = function->window(i);
            if (window.device != nullptr && window.address != 0) wanted.push_back(window);
        }
    }
    std::erase_if(mapped_, [&](const PciFunction::Window& window) {
        if (std::find(wanted.begin(), wanted.end(), window) != wanted.end()) return false;
        bus_->release(window.space, window.address);
        return true;
    });
    // Where two overlap, the first one stays until it moves away.
    for (const PciFunction::Window& window : wanted) {
        if (std::find(mapped_.begin(), mapped_.end(), window) != mapped_.end()) continue;
        if (bus_->try_claim(window.space, window.address, window.size, *window.device)) {
            mapped_.push_back(window);
        }
    }
}

bool PciHost::selected(std::uint64_t offset, std::uint64_t& address) const
{
    if ((state_.config_address & config_enable) == 0) return false;
    const std::uint64_t bus_device_function = (state_.config_address >> 8) & 0xffff;
    address = bus_device_function << 12 | (state_.config_address & 0xfc) | offset;
    return true;
}

void PciHost::read_address_port(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    if (data.size() == 4 && offset == 0) {
        base::store_bytes(data, state_.config_address);
    } else if (data.size() == 1 && offset == 1) {
        reset_control_->read(0, data);
    } else {
        std::fill(data.begin(), data.end(), std::byte{0xff});
    }
}

void PciHost::write_address_port(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    if (data.size() == 4 && offset == 0) {
        state_.config_address =
            static_cast<std::uint32_t>(base::load_bytes(data)) & 0x80fffffc;
    } else if (data.size() == 1 && offset == 1) {
        reset_control_->write(0, data);
    }
}

void PciHost::read_data_port(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    std::uint64_t address = 0;
    if (selected(offset, address)) {
        read_config(address, data);
    } else {
        std::fill(data.begin(), data.end(), std::byte{0xff});
    }
}

void PciHost::write_data_port(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    std::uint64_t address = 0;
    if (selected(offset, address)) write_config(address, data);
}

void PciHost::read_ecam(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    read_config(offset, data);
}

void PciHost::write_ecam(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    write_config(offset, data);
}

void PciHost::reset()
{
    state_ = {};
    for (PciFunction* function : functions_) {
        if (function != nullptr) function->reset();
    }
    map_bars();
}

void PciHost::save(base::StateWriter& writer) const
{
    writer.section("pci-host", 1, state_);
    bridge_.save(writer);
}

base::Result<void> PciHost::load(const base::StateReader& reader)
{
    const State loaded = TRY(reader.section_as<State>("pci-host", 1));
    if ((loaded.config_address & ~0x80fffffcu) != 0) {
        return base::io_error("Saved state of 'pci-host' selects an impossible register");
    }
    TRY(bridge_.load(reader));
    state_ = loaded;
    return {};
}

}  // namespace doppel::devices
