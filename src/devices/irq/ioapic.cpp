#include "devices/irq/ioapic.h"

#include "base/bytes.h"

namespace doppel::devices {
namespace {

constexpr std::uint64_t IOREGSEL = 0x00;
constexpr std::uint64_t IOWIN = 0x10;
constexpr std::uint64_t EOIR = 0x40;
constexpr std::uint8_t IOAPICID = 0;
constexpr std::uint8_t IOAPICVER = 1;
constexpr std::uint8_t IOAPICARB = 2;
constexpr std::uint8_t IOREDTBL = 0x10;

constexpr std::uint32_t version = 0x20 | (IoApic::pin_count - 1) << 16;
constexpr std::uint64_t read_only = IoApic::delivery_status | IoApic::remote_irr;
// Vector to mask, and the destination; the rest is reserved.
constexpr std::uint64_t implemented = 0xff00'0000'0001'ffff;

// SDM volume 3 section 11.11: the message that says what a redirection entry says.
bus::Msi message_of(std::uint64_t entry)
{
    const std::uint64_t destination = entry >> 56;
    const std::uint64_t logical = (entry >> 11) & 1;
    const bool level = (entry & IoApic::level_triggered) != 0;
    bus::Msi message;
    // Lowest priority needs the redirection hint to be honoured.
    const std::uint64_t hint = ((entry >> 8) & 7) == 1 ? 1 : 0;
    message.address = 0xfee00000 | destination << 12 | hint << 3 | logical << 2;
    message.data = static_cast<std::uint32_t>(entry & 0x7ff) | (level ? 0xc000u : 0x4000u);
    return message;
}

}  // namespace

void IoApic::reset()
{
    const std::uint32_t pins = state_.pins;
    state_ = {};
    state_.pins = pins;
    state_.redirection.fill(masked);
}

void IoApic::set_pin(unsigned pin, bool level) noexcept
{
    if (pin >= pin_count) return;
    const std::uint32_t mask = 1u << pin;
    const bool was = (state_.pins & mask) != 0;
    state_.pins = level ? state_.pins | mask : state_.pins & ~mask;
    const std::uint64_t entry = state_.redirection[pin];
    if ((entry & level_triggered) != 0) {
        state_.irr = level ? state_.irr | mask : state_.irr & ~mask;
        service(pin);
        return;
    }
    // An edge at a masked pin is lost (82093AA, "Interrupt mask").
    if (!level || was || (entry & masked) != 0) return;
    state_.irr |= mask;
    service(pin);
}

void IoApic::service(unsigned pin)
{
    const std::uint32_t mask = 1u << pin;
    std::uint64_t& entry = state_.redirection[pin];
    if ((state_.irr & mask) == 0 || (entry & masked) != 0) return;
    if ((entry & level_triggered) != 0) {
        if ((entry & remote_irr) != 0) return;
        // SMI, NMI, INIT and ExtINT are edges whatever the entry says: no EOI follows.
        const unsigned mode = (entry >> 8) & 7;
        if (mode <= 1) entry |= remote_irr;
    } else {
        state_.irr &= ~mask;
    }
    local_.deliver(message_of(entry));
}

void IoApic::end_of_interrupt(std::uint8_t vector) noexcept
{
    for (unsigned pin = 0; pin < pin_count; ++pin) {
        std::uint64_t& entry = state_.redirection[pin];
        if ((entry & 0xff) != vector || (entry & remote_irr) == 0) continue;
        entry &= ~remote_irr;
        service(pin);
    }
}

std::uint32_t IoApic::read_register() const
{
    switch (state_.index) {
    case IOAPICID:
    case IOAPICARB: return std::uint32_t{state_.id} << 24;
    case IOAPICVER: return version;
    default: break;
    }
    const unsigned index = state_.index;
    if (index < IOREDTBL || index >= IOREDTBL + 2 * pin_count) return 0;
    const std::uint64_t entry = state_.redirection[(index - IOREDTBL) / 2];
    return static_cast<std::uint32_t>((index & 1) != 0 ? entry >> 32 : entry);
}

void IoApic::write_register(std::uint32_t value)
{
    const unsigned index = state_.index;
    if (index == IOAPICID) {
        state_.id = (value >> 24) & 0xf;
        return;
    }
    if (index < IOREDTBL || index >= IOREDTBL + 2 * pin_count) return;
    const unsigned pin = (index - IOREDTBL) / 2;
    std::uint64_t& entry = state_.redirection[pin];
    std::uint64_t next = (index & 1) != 0
                             ? (entry & 0xffffffff) | std::uint64_t{value} << 32
                             : (entry & ~std::uint64_t{0xffffffff}) | value;
    next = (next & implemented & ~read_only) | (entry & read_only);
    const std::uint32_t mask = 1u << pin;
    if ((next & level_triggered) == 0) {
        // Systems without the EOI register's use end a stuck level interrupt by a detour
        // over edge mode, which clears remote IRR.
        next &= ~remote_irr;
        if ((entry & level_triggered) != 0) state_.irr &= ~mask;
    } else {
        state_.irr = (state_.irr & ~mask) | (state_.pins & mask);
    }
    entry = next;
    service(pin);
}

void IoApic::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    // Registers are read in aligned doublewords; bytes of one are given as they lie.
    const std::uint64_t at = offset & ~std::uint64_t{3};
    std::uint64_t value = 0;
    if (at == IOREGSEL) value = state_.index;
    if (at == IOWIN) value = read_register();
    base::store_bytes(data, value >> (8 * (offset & 3)));
}

void IoApic::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    const auto value = static_cast<std::uint32_t>(base::load_bytes(data));
    if (offset == IOREGSEL) {
        state_.index = static_cast<std::uint8_t>(value);
    } else if (offset == IOWIN && data.size() >= 4) {
        write_register(value);
    } else if (offset == EOIR) {
        end_of_interrupt(static_cast<std::uint8_t>(value));
    }
}

void IoApic::save(base::StateWriter& writer) const
{
    writer.section("ioapic", 1, state_);
}

base::Result<void> IoApic::load(const base::StateReader& reader)
{
    auto state = TRY(reader.section_as<State>("ioapic", 1));
    constexpr std::uint32_t all_pins = (1u << pin_count) - 1;
    bool good = (state.pins & ~all_pins) == 0 && (state.irr & ~all_pins) == 0 && state.id <= 0xf;
    for (const std::uint64_t entry : state.redirection) {
        good = good && (entry & ~(implemented | read_only)) == 0;
    }
    if (!good) return base::io_error("Saved state of 'ioapic' holds impossible values");
    state_ = state;
    return {};
}

}  // namespace doppel::devices
