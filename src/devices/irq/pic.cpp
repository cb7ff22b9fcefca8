#include "devices/irq/pic.h"

#include <utility>

#include "base/bytes.h"

namespace doppel::devices {
namespace {

constexpr unsigned master = 0;
constexpr unsigned slave = 1;
constexpr unsigned cascade = 2;
// Inputs that cannot be level-triggered: timer, keyboard, cascade; RTC, FPU.
constexpr std::array<std::uint8_t, 2> elcr_writable = {0xf8, 0xde};

constexpr std::uint8_t bit(unsigned n)
{
    return static_cast<std::uint8_t>(1u << n);
}
constexpr std::uint8_t without(unsigned value, unsigned bits)
{
    return static_cast<std::uint8_t>(value & ~bits);
}

}  // namespace

Pic::Pic(Output intr) : output_(std::move(intr))
{
    reset();
}

void Pic::reset()
{
    const bool was = state_.intr != 0;
    for (unsigned i = 0; i < 2; ++i) {
        const std::uint8_t lines = state_.chips[i].lines;
        state_.chips[i] = {};
        // Pins are driven from outside, but the cascade by the slave, which requests nothing.
        state_.chips[i].lines = i == master ? without(lines, bit(cascade)) : lines;
        state_.chips[i].lowest = 7;
    }
    state_.intr = 0;
    if (was) output_(false);
}

// What ICW1 resets (8259A datasheet, "Initialization Command Words").
void Pic::reset_chip(unsigned index)
{
    Chip& chip = state_.chips[index];
    chip.irr = static_cast<std::uint8_t>(chip.lines & chip.elcr);
    chip.isr = 0;
    chip.imr = 0;
    chip.lowest = 7;
    chip.auto_eoi = chip.rotate_on_auto_eoi = 0;
    chip.special_mask = chip.special_fully_nested = 0;
    chip.poll = chip.read_isr = 0;
}

void Pic::set_line(unsigned irq, bool level)
{
    if (irq > 15 || irq == cascade) return;
    set_input(irq / 8, irq % 8, level);
    update();
}

void Pic::set_input(unsigned index, unsigned input, bool level)
{
    Chip& chip = state_.chips[index];
    const std::uint8_t mask = bit(input);
    const bool was = (chip.lines & mask) != 0;
    chip.lines = static_cast<std::uint8_t>(level ? chip.lines | mask : without(chip.lines, mask));
    if ((chip.elcr & mask) != 0) {
        chip.irr = static_cast<std::uint8_t>(level ? chip.irr | mask : without(chip.irr, mask));
    } else if (level && !was) {
        chip.irr |= mask;
    } else if (!level) {
        // The request must stay high until INTA; one that falls earlier ends as spurious.
        chip.irr = without(chip.irr, mask);
    }
}

int Pic::pending(unsigned index) const
{
    const Chip& chip = state_.chips[index];
    const unsigned requests = without(chip.irr, chip.imr);
    for (unsigned i = 1; i <= 8; ++i) {
        const unsigned input = (chip.lowest + i) % 8;
        if ((chip.isr & bit(input)) != 0) {
            // In service: blocks itself and, except in special mask mode, all below. In
            // special fully nested mode the cascade may interrupt itself.
            if (chip.special_mask != 0) continue;
            const bool nested =
                index == master && input == cascade && chip.special_fully_nested != 0;
            if (!nested) return -1;
        }
        if ((requests & bit(input)) != 0) return static_cast<int>(input);
    }
    return -1;
}

void Pic::update()
{
    const bool slave_request = pending(slave) >= 0;
    set_input(master, cascade, slave_request);
    const bool level = pending(master) >= 0;
    if (level == (state_.intr != 0)) return;
    state_.intr = level ? 1 : 0;
    output_(level);
}

void Pic::take(unsigned index, unsigned input)
{
    Chip& chip = state_.chips[index];
    if ((chip.elcr & bit(input)) == 0) chip.irr = without(chip.irr, bit(input));
    if (chip.auto_eoi == 0) {
        chip.isr |= bit(input);
    } else if (chip.rotate_on_auto_eoi != 0) {
        chip.lowest = static_cast<std::uint8_t>(input);
    }
}

std::uint8_t Pic::acknowledge()
{
    const int input = pending(master);
    std::uint8_t vector = 0;
    if (input < 0) {
        ++spurious_;
        vector = static_cast<std::uint8_t>(state_.chips[master].vector_base + 7);
    } else {
        take(master, static_cast<unsigned>(input));
        vector = static_cast<std::uint8_t>(state_.chips[master].vector_base + input);
        if (input == static_cast<int>(cascade)) {
            const int second = pending(slave);
            if (second >= 0) {
                take(slave, static_cast<unsigned>(second));
            } else {
                ++spurious_;
            }
            const int low = second >= 0 ? second : 7;
            vector = static_cast<std::uint8_t>(state_.chips[slave].vector_base + low);
            // The slave's output drops for the second request, too: that makes the next
            // rising edge at the master.
            set_input(master, cascade, false);
        }
    }
    update();
    return vector;
}

void Pic::write_ocw2(Chip& chip, std::uint8_t value)
{
    const unsigned level = value & 7u;
    const auto highest_in_service = [&chip]() -> int {
        for (unsigned i = 1; i <= 8; ++i) {
            const unsigned input = (chip.lowest + i) % 8;
            // In special mask mode a masked input is skipped by a non-specific EOI.
            if (chip.special_mask != 0 && (chip.imr & bit(input)) != 0) continue;
            if ((chip.isr & bit(input)) != 0) return static_cast<int>(input);
        }
        return -1;
    };
    switch (value >> 5) {
    case 0: chip.rotate_on_auto_eoi = 0; break;
    case 4: chip.rotate_on_auto_eoi = 1; break;
    case 1:    // non-specific EOI
    case 5: {  // and rotate
        const int input = highest_in_service();
        if (input < 0) break;
        chip.isr = without(chip.isr, bit(static_cast<unsigned>(input)));
        if (value >> 5 == 5) chip.lowest = static_cast<std::uint8_t>(input);
        break;
    }
    case 3: chip.isr = without(chip.isr, bit(level)); break;
    case 7:
        chip.isr = without(chip.isr, bit(level));
        chip.lowest = static_cast<std::uint8_t>(level);
        break;
    case 6: chip.lowest = static_cast<std::uint8_t>(level); break;
    default: break;  // 2: no operation
    }
}

void Pic::write_command(unsigned index, std::uint8_t value)
{
    Chip& chip = state_.chips[index];
    if ((value & 0x10) != 0) {  // ICW1
        reset_chip(index);
        chip.needs_icw4 = value & 1;
        chip.single = (value >> 1) & 1;
        chip.init_step = 2;
    } else if ((value & 0x08) != 0) {  // OCW3
        if ((value & 0x04) != 0) chip.poll = 1;
        if ((value & 0x02) != 0) chip.read_isr = value & 1;
        if ((value & 0x40) != 0) chip.special_mask = (value >> 5) & 1;
    } else {
        write_ocw2(chip, value);
    }
    update();
}

void Pic::write_data(unsigned index, std::uint8_t value)
{
    Chip& chip = state_.chips[index];
    switch (chip.init_step) {
    case 2:
        chip.vector_base = value & 0xf8;
        chip.init_step = chip.single == 0 ? 3 : (chip.needs_icw4 != 0 ? 4 : 0);
        break;
    case 3: chip.init_step = chip.needs_icw4 != 0 ? 4 : 0; break;  // the wiring is fixed
    case 4:
        chip.auto_eoi = (value >> 1) & 1;
        chip.special_fully_nested = (value >> 4) & 1;
        chip.init_step = 0;
        break;
    default: chip.imr = value; break;
    }
    update();
}

std::uint8_t Pic::poll(unsigned index)
{
    const int input = pending(index);
    if (input < 0) return 0;
    take(index, static_cast<unsigned>(input));
    return static_cast<std::uint8_t>(0x80 | input);
}

std::uint8_t Pic::read_command(unsigned index)
{
    Chip& chip = state_.chips[index];
    if (chip.poll != 0) {
        chip.poll = 0;
        const std::uint8_t value = poll(index);
        update();
        return value;
    }
    return chip.read_isr != 0 ? chip.isr : chip.irr;
}

void Pic::Ports::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    const Chip& state = pic.state_.chips[chip];
    // A poll command answers on the next read of either port.
    const bool command = offset == 0 || state.poll != 0;
    base::store_bytes(data, command ? pic.read_command(chip) : state.imr);
}

void Pic::Ports::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size() && offset + i < 2; ++i) {
        const auto value = std::to_integer<std::uint8_t>(data[i]);
        if (offset + i == 0) {
            pic.write_command(chip, value);
        } else {
            pic.write_data(chip, value);
        }
    }
}

void Pic::ElcrPorts::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < data.size() && offset + i < 2; ++i) {
        value |= std::uint64_t{pic.state_.chips[offset + i].elcr} << (8 * i);
    }
    base::store_bytes(data, value);
}

void Pic::ElcrPorts::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size() && offset + i < 2; ++i) {
        Chip& state = pic.state_.chips[offset + i];
        state.elcr = std::to_integer<std::uint8_t>(data[i]) & elcr_writable[offset + i];
        // A level-triggered input requests for as long as its line is high.
        state.irr = static_cast<std::uint8_t>(without(state.irr, state.elcr) |
                                              (state.lines & state.elcr));
    }
    pic.update();
}

void Pic::save(base::StateWriter& writer) const
{
    writer.section("pic", 1, state_);
}

base::Result<void> Pic::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("pic", 1));
    for (unsigned i = 0; i < 2; ++i) {
        const Chip& chip = state.chips[i];
        const bool flags_good = (chip.needs_icw4 | chip.single | chip.auto_eoi |
                                 chip.rotate_on_auto_eoi | chip.special_mask |
                                 chip.special_fully_nested | chip.poll | chip.read_isr) <= 1;
        if (!flags_good || chip.lowest > 7 || (chip.vector_base & 7) != 0 ||
            (chip.init_step != 0 && (chip.init_step < 2 || chip.init_step > 4)) ||
            state.intr > 1 || (chip.elcr & ~elcr_writable[i]) != 0) {
            return base::io_error("Saved state of 'pic' holds impossible values");
        }
    }
    state_ = state;
    output_(state_.intr != 0);
    update();
    return {};
}

}  // namespace doppel::devices
