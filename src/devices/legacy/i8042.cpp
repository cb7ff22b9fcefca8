#include "devices/legacy/i8042.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"

namespace doppel::devices {
namespace {

constexpr unsigned keyboard_irq = 1;
constexpr std::uint8_t STATUS_OBF = 0x01;
constexpr std::uint8_t STATUS_SYS = 0x04;
constexpr std::uint8_t STATUS_CMD = 0x08;
constexpr std::uint8_t STATUS_UNLOCKED = 0x10;
constexpr std::uint8_t CONFIG_KBD_INT = 0x01;
constexpr std::uint8_t CONFIG_SYS = 0x04;
constexpr std::uint8_t CONFIG_KBD_OFF = 0x10;
constexpr std::uint8_t CONFIG_AUX_OFF = 0x20;
constexpr std::uint8_t OUTPUT_RESET = 0x01;  // low resets the CPU
constexpr std::uint8_t OUTPUT_A20 = 0x02;
constexpr std::uint8_t KBD_ACK = 0xfa;
constexpr std::uint8_t KBD_RESEND = 0xfe;

}  // namespace

I8042::I8042(bus::InterruptSink& interrupts, std::function<void()> reset_machine)
    : interrupts_(interrupts), reset_machine_(std::move(reset_machine))
{
    reset();
}

void I8042::reset()
{
    state_ = {};
    state_.memory[0] = CONFIG_SYS | CONFIG_AUX_OFF | 0x40;
    state_.output_port = OUTPUT_RESET | OUTPUT_A20;
    state_.scan_set = 2;
    update();
}

void I8042::update()
{
    const bool wanted = (state_.memory[0] & CONFIG_KBD_INT) != 0;
    interrupts_.set_line(keyboard_irq, wanted && state_.queued != 0);
}

void I8042::answer(std::uint8_t value)
{
    if (state_.queued < queue_size) state_.queue[state_.queued++] = value;
}

std::uint8_t I8042::take()
{
    if (state_.queued == 0) return state_.last;
    state_.last = state_.queue[0];
    std::copy(state_.queue.begin() + 1, state_.queue.end(), state_.queue.begin());
    --state_.queued;
    return state_.last;
}

void I8042::write_output_port(std::uint8_t value)
{
    state_.output_port = value;
    if ((value & OUTPUT_RESET) == 0) {
        state_.output_port |= OUTPUT_RESET;
        reset_machine_();
    }
}

void I8042::write_command(std::uint8_t command)
{
    state_.after_command = 1;
    state_.command = 0;
    if (command >= 0x20 && command < 0x40) {
        answer(state_.memory[command & 0x1f]);
        return;
    }
    if (command >= 0x60 && command < 0x80) {
        state_.command = command;
        return;
    }
    // Pulse: the bits that are zero go low for 6 us; bit 0 is the reset line.
    if (command >= 0xf0) {
        if ((command & 1) == 0) reset_machine_();
        return;
    }
    switch (command) {
    case 0xaa:  // self test
        answer(0x55);
        state_.memory[0] |= CONFIG_SYS;
        break;
    case 0xab: answer(0x00); break;  // keyboard interface test: good
    case 0xa9: answer(0x01); break;  // auxiliary interface: clock line stuck, nothing there
    case 0xa7: state_.memory[0] |= CONFIG_AUX_OFF; break;
    case 0xa8: break;  // no auxiliary port to switch on: its "off" bit stays
    case 0xad: state_.memory[0] |= CONFIG_KBD_OFF; break;
    case 0xae: state_.memory[0] &= static_cast<std::uint8_t>(~CONFIG_KBD_OFF); break;
    case 0xc0: answer(0x80); break;  // input port: keyboard not locked
    case 0xd0: answer(state_.output_port); break;
    case 0xd1: case 0xd2: case 0xd3: case 0xd4: state_.command = command; break;
    case 0xdd: state_.output_port &= static_cast<std::uint8_t>(~OUTPUT_A20); break;
    case 0xdf: state_.output_port |= OUTPUT_A20; break;
    default: break;
    }
}

void I8042::write_data(std::uint8_t value)
{
    state_.after_command = 0;
    const std::uint8_t command = std::exchange(state_.command, std::uint8_t{0});
    if (command >= 0x60 && command < 0x80) {
        if (command == 0x60) value |= CONFIG_AUX_OFF;
        state_.memory[command & 0x1f] = value;
        return;
    }
    switch (command) {
    case 0xd1: write_output_port(value); break;
    case 0xd2: answer(value); break;  // as if from the keyboard
    case 0xd3:
    case 0xd4: break;  // for the auxiliary device: nobody answers
    default: keyboard(value); break;
    }
}

// IBM PS/2 keyboard commands.
void I8042::keyboard(std::uint8_t value)
{
    const std::uint8_t command = std::exchange(state_.keyboard_command, std::uint8_t{0});
    if (command != 0 && value < 0xe0) {
        answer(KBD_ACK);
        if (command == 0xed) state_.leds = value & 7;
        if (command == 0xf0) {
            if (value == 0) answer(state_.scan_set);
            if (value >= 1 && value <= 3) state_.scan_set = value;
        }
        return;
    }
    switch (value) {
    case 0xed: case 0xf0: case 0xf3:
        answer(KBD_ACK);
        state_.keyboard_command = value;
        break;
    case 0xee: answer(0xee); break;  // echo
    case 0xf2:  // identify: MF2 keyboard
        answer(KBD_ACK);
        answer(0xab);
        answer(0x83);
        break;
    case 0xf4: case 0xf5: case 0xf6:
        if (value != 0xf4) state_.scan_set = 2;
        answer(KBD_ACK);
        break;
    case 0xff:
        state_.queued = 0;
        state_.scan_set = 2;
        state_.leds = 0;
        answer(KBD_ACK);
        answer(0xaa);  // self test passed
        break;
    default: answer(KBD_RESEND); break;
    }
}

void I8042::read_data_port(std::uint64_t, std::span<std::byte> data) noexcept
{
    base::store_bytes(data, take());
    // One interrupt per byte: the line drops before it rises for the next.
    interrupts_.set_line(keyboard_irq, false);
    update();
}

void I8042::write_data_port(std::uint64_t, std::span<const std::byte> data) noexcept
{
    write_data(std::to_integer<std::uint8_t>(data[0]));
    update();
}

void I8042::read_command_port(std::uint64_t, std::span<std::byte> data) noexcept
{
    const State& state = state_;
    const unsigned value = (state.queued != 0 ? STATUS_OBF : 0u) |
                           (state.memory[0] & STATUS_SYS) |
                           (state.after_command != 0 ? STATUS_CMD : 0u) | STATUS_UNLOCKED;
    base::store_bytes(data, value);
}

void I8042::write_command_port(std::uint64_t, std::span<const std::byte> data) noexcept
{
    write_command(std::to_integer<std::uint8_t>(data[0]));
    update();
}

base::Result<void> I8042::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("i8042", 1));
    if (state.queued > queue_size || state.after_command > 1 || state.scan_set < 1 ||
        state.scan_set > 3) {
        return base::io_error("Saved state of 'i8042' holds impossible values");
    }
    state_ = state;
    update();
    return {};
}

}  // namespace doppel::devices
