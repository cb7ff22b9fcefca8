#include "devices/timer/pit.h"

#include "base/bytes.h"
#include "bus/ticks.h"

namespace doppel::devices {
namespace {

constexpr std::uint8_t control_bcd = 0x01;
constexpr std::uint8_t control_out = 0x80;
constexpr std::uint8_t control_null_count = 0x40;
constexpr unsigned access_low = 1;
constexpr unsigned access_high = 2;
constexpr unsigned access_both = 3;

// Modes 6 and 7 are 2 and 3 (the upper mode bit is "don't care" there).
unsigned mode_of(const Pit::Channel& channel)
{
    const unsigned mode = (channel.control >> 1) & 7u;
    return mode > 5 ? mode - 4 : mode;
}
unsigned access_of(const Pit::Channel& channel)
{
    return (channel.control >> 4) & 3u;
}
bool bcd(const Pit::Channel& channel)
{
    return (channel.control & control_bcd) != 0;
}
// Values of a counter that wraps after the end of its count.
std::uint64_t modulus(const Pit::Channel& channel)
{
    return bcd(channel) ? 10'000 : 0x10000;
}
bool periodic(const Pit::Channel& channel)
{
    return mode_of(channel) == 2 || mode_of(channel) == 3;
}
// A rising gate starts these; the count alone does not.
bool gate_triggered(const Pit::Channel& channel)
{
    return mode_of(channel) == 1 || mode_of(channel) == 5;
}

std::uint16_t to_bcd(std::uint64_t value)
{
    const std::uint64_t digits = value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 |
                                 value / 1000 % 10 << 12;
    return static_cast<std::uint16_t>(digits);
}
// Digits above 9 count for what they weigh, as in the chip's decade counters.
std::uint32_t from_bcd(std::uint32_t value)
{
    return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 +
           (value >> 12 & 15) * 1000;
}

}  // namespace

Pit::Pit(bus::Bus& bus, bus::InterruptSink& interrupts, bus::VmClock& clock)
    : bus_(bus), interrupts_(interrupts), clock_(clock)
{
    timer_ = clock_.create_timer([this] {
        const auto guard = bus_.lock();
        on_timer();
    });
    reset();
}

void Pit::reset()
{
    state_ = {};
    for (Channel& channel : state_.channels) {
        channel.control = access_both << 4 | 3 << 1;
        channel.gate = 1;
    }
    state_.channels[2].gate = 0;
    timer_->cancel();
    interrupts_.set_line(0, false);
}

std::uint64_t Pit::now() const
{
    return bus::ns_to_ticks(clock_.now_ns(), hz);
}

std::uint64_t Pit::elapsed(const Channel& channel) const
{
    if (channel.running == 0) return 0;
    // A low gate holds the counter, except for modes 1 and 5, where only its edge matters.
    if (channel.gate == 0 && !gate_triggered(channel)) return channel.held_ticks;
    const std::uint64_t tick = now();
    return tick > channel.start_tick ? tick - channel.start_tick : 0;
}

bool Pit::output(unsigned index) const
{
    const Channel& channel = state_.channels[index];
    const std::uint64_t count = channel.count;
    const unsigned mode = mode_of(channel);
    if (channel.running == 0 || count == 0) return mode != 0;
    const std::uint64_t ticks = elapsed(channel);
    switch (mode) {
    case 0:
    case 1: return ticks >= count;
    case 2: return channel.gate == 0 || ticks % count != count - 1;
    case 3: return channel.gate == 0 || ticks % count < (count + 1) / 2;
    default: return ticks != count;  // a strobe of one tick
    }
}

std::uint16_t Pit::counter(const Channel& channel) const
{
    if (channel.count == 0) return 0;
    const std::uint64_t ticks = elapsed(channel);
    const std::uint64_t count = channel.count;
    std::uint64_t value = 0;
    if (mode_of(channel) == 2) {
        value = count - ticks % count;
    } else if (mode_of(channel) == 3) {
        // Counts down by two, twice per period; an odd count makes the first half longer.
        const std::uint64_t phase = ticks % count;
        const std::uint64_t half = (count + 1) / 2;
        value = (count & ~std::uint64_t{1}) - 2 * (phase < half ? phase : phase - half);
        if (value > count) value = 0;
    } else {
        const std::uint64_t wrap = modulus(channel);
        value = (count % wrap + wrap - ticks % wrap) % wrap;
    }
    return bcd(channel) ? to_bcd(value) : static_cast<std::uint16_t>(value);
}

void Pit::load_count(unsigned index, std::uint32_t value)
{
    Channel& channel = state_.channels[index];
    const std::uint32_t count = bcd(channel) ? from_bcd(value) : value;
    const auto wrap = static_cast<std::uint32_t>(modulus(channel));
    channel.count = count == 0 ? wrap : count;
    // The chip forbids 1 in modes 2 and 3; there it would mean an edge every tick.
    if (periodic(channel) && channel.count == 1) channel.count = 2;
    if (!gate_triggered(channel)) {
        channel.running = 1;
        channel.held_ticks = 0;
        channel.start_tick = now();
    }
    if (index == 0) schedule();
}

void Pit::write_count(unsigned index, std::uint8_t value)
{
    Channel& channel = state_.channels[index];
    switch (access_of(channel)) {
    case access_low: load_count(index, value); break;
    case access_high: load_count(index, static_cast<std::uint32_t>(value) << 8); break;
    default:
        if (channel.write_high == 0) {
            channel.written_low = value;
            channel.write_high = 1;
            // In mode 0 the first byte stops the counting.
            if (mode_of(channel) == 0) {
                channel.running = 0;
                if (index == 0) schedule();
            }
        } else {
            channel.write_high = 0;
            load_count(index, static_cast<std::uint32_t>(value) << 8 | channel.written_low);
        }
    }
}

void Pit::latch_count(Channel& channel)
{
    if (channel.latched != 0) return;  // ignored until the first latch is read
    channel.latch = counter(channel);
    channel.latched = access_of(channel) == access_both ? 2 : 1;
}

void Pit::latch_status(unsigned index)
{
    Channel& channel = state_.channels[index];
    if (channel.status_latched != 0) return;
    const unsigned flags = (output(index) ? control_out : 0u) |
                           (channel.count == 0 ? control_null_count : 0u);
    channel.status = static_cast<std::uint8_t>(flags | channel.control);
    channel.status_latched = 1;
}

void Pit::write_control(std::uint8_t value)
{
    const unsigned select = value >> 6;
    if (select == 3) {  // read-back
        for (unsigned i = 0; i < 3; ++i) {
            if ((value & (2u << i)) == 0) continue;
            if ((value & 0x20) == 0) latch_count(state_.channels[i]);
            if ((value & 0x10) == 0) latch_status(i);
        }
        return;
    }
    Channel& channel = state_.channels[select];
    if ((value & 0x30) == 0) {
        latch_count(channel);
        return;
    }
    const std::uint8_t gate = channel.gate;
    channel = {};
    channel.gate = gate;
    channel.control = value & 0x3f;
    if (select == 0) schedule();
}

std::uint8_t Pit::read_count(unsigned index)
{
    Channel& channel = state_.channels[index];
    if (channel.status_latched != 0) {
        channel.status_latched = 0;
        return channel.status;
    }
    const unsigned access = access_of(channel);
    const std::uint16_t value = channel.latched != 0 ? channel.latch : counter(channel);
    bool high = access == access_high;
    if (access == access_both) {
        high = channel.read_high != 0;
        channel.read_high ^= 1;
    }
    if (channel.latched != 0) --channel.latched;
    return static_cast<std::uint8_t>(high ? value >> 8 : value);
}

void Pit::set_gate(unsigned index, bool level)
{
    Channel& channel = state_.channels[index];
    const bool was = channel.gate != 0;
    if (was == level) return;
    if (!level) {
        channel.held_ticks = elapsed(channel);
        channel.gate = 0;
        return;
    }
    channel.gate = 1;
    if (channel.count == 0) return;
    if (gate_triggered(channel) || periodic(channel)) {
        channel.running = 1;
        channel.held_ticks = 0;
        channel.start_tick = now();
    } else {
        const std::uint64_t tick = now();
        channel.start_tick = tick > channel.held_ticks ? tick - channel.held_ticks : 0;
    }
}

void Pit::schedule()
{
    const Channel& channel = state_.channels[0];
    interrupts_.set_line(0, output(0));
    if (channel.running == 0 || channel.count == 0) {
        timer_->cancel();
        return;
    }
    const std::uint64_t ticks = elapsed(channel);
    std::uint64_t next = channel.count;
    if (periodic(channel)) {
        next = (ticks / channel.count + 1) * channel.count;
    } else if (ticks >= next) {
        timer_->cancel();
        return;
    }
    timer_->arm(bus::ticks_to_ns(channel.start_tick + next, hz));
}

void Pit::on_timer()
{
    if (state_.channels[0].running == 0) return;
    // An edge even if the falling one before it was not simulated.
    interrupts_.set_line(0, false);
    interrupts_.set_line(0, true);
    const Channel& channel = state_.channels[0];
    if (!periodic(channel)) return;
    const std::uint64_t next = (elapsed(channel) / channel.count + 1) * channel.count;
    timer_->arm(bus::ticks_to_ns(channel.start_tick + next, hz));
}

void Pit::read_counter_ports(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    // The control word register cannot be read; the bus floats.
    for (std::size_t i = 0; i < data.size(); ++i) {
        const auto index = static_cast<unsigned>((offset + i) & 3);
        data[i] = static_cast<std::byte>(index == 3 ? 0xff : read_count(index));
    }
}

void Pit::write_counter_ports(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        const auto index = static_cast<unsigned>((offset + i) & 3);
        const auto value = std::to_integer<std::uint8_t>(data[i]);
        if (index == 3) {
            write_control(value);
        } else {
            write_count(index, value);
        }
    }
}

// Bit 0 gate of channel 2, 1 speaker, 4 refresh toggle (15 us), 5 OUT of channel 2.
void Pit::read_port_b(std::uint64_t, std::span<std::byte> data) noexcept
{
    const bool refresh = clock_.now_ns() / 15'085 % 2 != 0;
    const unsigned value = state_.channels[2].gate | state_.speaker * 2u |
                           (refresh ? 0x10u : 0) | (output(2) ? 0x20u : 0);
    base::store_bytes(data, value);
}

void Pit::write_port_b(std::uint64_t, std::span<const std::byte> data) noexcept
{
    const auto value = std::to_integer<unsigned>(data[0]);
    state_.speaker = (value >> 1) & 1;
    set_gate(2, (value & 1) != 0);
}

void Pit::save(base::StateWriter& writer) const
{
    writer.section("pit", 1, state_);
}

base::Result<void> Pit::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("pit", 1));
    bool good = state.speaker <= 1;
    for (const Channel& channel : state.channels) {
        good = good && (channel.write_high | channel.read_high | channel.status_latched |
                        channel.gate | channel.running) <= 1;
        good = good && channel.count <= 0x10000 && channel.latched <= 2 && channel.control <= 0x3f;
        good = good && (channel.running == 0 || channel.count != 0);
        good = good && (!periodic(channel) || channel.count != 1);
    }
    if (!good) return base::io_error("Saved state of 'pit' holds impossible values");
    state_ = state;
    schedule();
    return {};
}

}  // namespace doppel::devices
