#include "devices/pci/pci_function.h"

#include <bit>

#include "base/bytes.h"

namespace doppel::devices {

namespace {

constexpr unsigned command_offset = 0x04, bar_offset = 0x10;
constexpr std::uint16_t command_io = 1, command_memory = 2;
// I/O, memory, bus master, parity, SERR and INTx disable.
constexpr std::uint16_t command_writable = 0x0547;

}  // namespace

PciFunction::PciFunction(std::string name, const PciIdentity& identity) : name_(std::move(name))
{
    define_register(0x00, 2, identity.vendor, 0);
    define_register(0x02, 2, identity.device, 0);
    define_register(command_offset, 2, 0, command_writable);
    define_register(0x08, 4, identity.class_code << 8 | identity.revision, 0);
    define_register(0x0c, 1, 0, 0xff);  // cache line size
    define_register(0x0d, 1, 0, 0xff);  // latency timer
    define_register(0x2c, 2, identity.subsystem_vendor, 0);
    define_register(0x2e, 2, identity.subsystem, 0);
    define_register(0x3c, 1, 0, 0xff);  // interrupt line
}

void PciFunction::define_register(unsigned offset, unsigned size, std::uint32_t value,
                                  std::uint32_t writable)
{
    ASSERT(size <= 4 && offset + size <= config_size);
    for (unsigned i = 0; i < size; ++i) {
        initial_[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
        writable_[offset + i] = static_cast<std::uint8_t>(writable >> (8 * i));
        state_.config[offset + i] = initial_[offset + i];
    }
}

void PciFunction::define_memory_bar(unsigned index, std::uint64_t size, bool is_64bit,
                                    bool prefetchable, bus::BusDevice& device)
{
    ASSERT(index + (is_64bit ? 1 : 0) < bar_count && std::has_single_bit(size) && size >= 16);
    const std::uint32_t type = (is_64bit ? 4u : 0u) | (prefetchable ? 8u : 0u);
    const std::uint64_t mask = ~(size - 1);
    bars_[index] = {bus::Space::memory, 0, size, &device};
    define_register(bar_offset + 4 * index, 4, type, static_cast<std::uint32_t>(mask));
    if (is_64bit) {
        define_register(bar_offset + 4 * index + 4, 4, 0, static_cast<std::uint32_t>(mask >> 32));
    }
}

void PciFunction::define_io_bar(unsigned index, std::uint32_t size, bus::BusDevice& device)
{
    ASSERT(index < bar_count && std::has_single_bit(size) && size >= 4 && size <= 256);
    bars_[index] = {bus::Space::port, 0, size, &device};
    define_register(bar_offset + 4 * index, 4, 1, ~(size - 1) & 0xffff);
}

std::uint32_t PciFunction::dword(unsigned offset) const
{
    return base::load_le<std::uint32_t>(
        std::as_bytes(std::span{state_.config}).subspan(offset, 4).data());
}

std::uint16_t PciFunction::command() const
{
    return static_cast<std::uint16_t>(dword(command_offset));
}

PciFunction::Window PciFunction::window(unsigned index) const
{
    ASSERT(index < bar_count);
    Window window = bars_[index];
    if (window.device != nullptr) window.address = bar_address(index);
    return window;
}

void PciFunction::place_bar(unsigned index, std::uint64_t address)
{
    ASSERT(index < bar_count && bars_[index].device != nullptr);
    std::array<std::byte, 4> value{};
    base::store_bytes(value, address);
    write_config(bar_offset + 4 * index, value);
    if ((dword(bar_offset + 4 * index) & 7) == 4) {
        base::store_bytes(value, address >> 32);
        write_config(bar_offset + 4 * index + 4, value);
    }
}

void PciFunction::enable_decoding()
{
    std::array<std::byte, 2> value{};
    base::store_bytes(value, command() | command_io | command_memory);
    write_config(command_offset, value);
}

std::uint64_t PciFunction::bar_address(unsigned index) const
{
    ASSERT(index < bar_count);
    const std::uint32_t low = dword(bar_offset + 4 * index);
    if ((low & 1) != 0) return (command() & command_io) != 0 ? low & ~3u : 0;
    if ((command() & command_memory) == 0) return 0;
    std::uint64_t address = low & ~15u;
    if ((low & 6) == 4) address |= std::uint64_t{dword(bar_offset + 4 * index + 4)} << 32;
    return address;
}

void PciFunction::read_config(unsigned offset, std::span<std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = std::byte{state_.config[offset + i]};
}

void PciFunction::write_config(unsigned offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        const auto value = static_cast<unsigned>(data[i]);
        const unsigned mask = writable_[offset + i];
        std::uint8_t& byte = state_.config[offset + i];
        byte = static_cast<std::uint8_t>((byte & ~mask) | (value & mask));
    }
    const auto end = offset + static_cast<unsigned>(data.size());
    const bool in_command = offset < command_offset + 2 && end > command_offset;
    const bool in_bars = offset < bar_offset + 4 * bar_count && end > bar_offset;
    if (in_command || in_bars) mapping_changed();
}

void PciFunction::reset()
{
    state_.config = initial_;
    mapping_changed();
}

void PciFunction::save(base::StateWriter& writer) const
{
    writer.section(name_, 1, state_);
}

base::Result<void> PciFunction::load(const base::StateReader& reader)
{
    const State loaded = TRY(reader.section_as<State>(name_, 1));
    for (unsigned i = 0; i < config_size; ++i) {
        if (((loaded.config[i] ^ initial_[i]) & ~writable_[i]) != 0) {
            return base::io_error("Saved state of '" + name_ + "' is of another device");
        }
    }
    state_ = loaded;
    mapping_changed();
    return {};
}

}  // namespace doppel::devices
