#include "devices/timer/rtc.h"

#include <algorithm>
#include <chrono>

#include "bus/ticks.h"

namespace doppel::devices {
namespace {

enum Index : unsigned {
    SECONDS = 0, SECONDS_ALARM = 1, MINUTES = 2, MINUTES_ALARM = 3, HOURS = 4, HOURS_ALARM = 5,
    DAY_OF_WEEK = 6, DAY = 7, MONTH = 8, YEAR = 9, REGISTER_A = 10, REGISTER_B = 11,
    REGISTER_C = 12, REGISTER_D = 13, CENTURY = 0x32,
};

constexpr std::uint8_t A_UIP = 0x80;
constexpr std::uint8_t B_SET = 0x80;
constexpr std::uint8_t B_PIE = 0x40;
constexpr std::uint8_t B_AIE = 0x20;
constexpr std::uint8_t B_UIE = 0x10;
constexpr std::uint8_t B_DM = 0x04;  // binary, not BCD
constexpr std::uint8_t B_24H = 0x02;
constexpr std::uint8_t C_IRQF = 0x80;
constexpr std::uint8_t C_PF = 0x40;
constexpr std::uint8_t C_AF = 0x20;
constexpr std::uint8_t C_UF = 0x10;
constexpr std::uint8_t D_VRT = 0x80;
constexpr unsigned irq = 8;
constexpr std::uint64_t oscillator_hz = 32768;
constexpr std::uint64_t update_ns = 244'000;  // UIP is up for 244 us before an update
constexpr std::int64_t seconds_per_day = 86'400;

struct Calendar {
    std::int64_t year;
    unsigned month, day, weekday, hour, minute, second;
};

// Years 0-9999, so that four digits hold.
constexpr std::int64_t earliest = -62'167'219'200;
constexpr std::int64_t latest = 253'402'300'799;

Calendar calendar_of(std::int64_t seconds)
{
    using namespace std::chrono;
    const sys_seconds time{std::chrono::seconds{std::clamp(seconds, earliest, latest)}};
    const auto midnight = floor<days>(time);
    const year_month_day date{midnight};
    const hh_mm_ss clock{time - midnight};
    return {static_cast<int>(date.year()),
            static_cast<unsigned>(date.month()),
            static_cast<unsigned>(date.day()),
            weekday{midnight}.c_encoding() + 1,
            static_cast<unsigned>(clock.hours().count()),
            static_cast<unsigned>(clock.minutes().count()),
            static_cast<unsigned>(clock.seconds().count())};
}

// Nonsense (31 February, minute 99) carries over into the next larger unit.
std::int64_t seconds_of(const Calendar& c)
{
    using namespace std::chrono;
    const unsigned month_index = std::clamp(c.month, 1u, 12u);
    const sys_days first{year{static_cast<int>(c.year)} / month{month_index} / day{1}};
    const std::int64_t whole_days = first.time_since_epoch().count() + c.day - 1;
    return whole_days * seconds_per_day + c.hour * 3600 + c.minute * 60 + c.second;
}

}  // namespace

std::int64_t Rtc::host_utc_seconds()
{
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

Rtc::Rtc(bus::Bus& bus, bus::InterruptSink& interrupts, bus::VmClock& clock, const Config& config)
    : bus_(bus), interrupts_(interrupts), clock_(clock)
{
    timer_ = clock_.create_timer([this] {
        const auto guard = bus_.lock();
        update();
    });
    state_.offset_seconds = std::clamp(config.start_seconds, earliest, latest);
    auto& memory = state_.memory;
    memory[REGISTER_A] = 0x26;  // 32768 Hz time base, 1024 Hz periodic rate
    memory[REGISTER_B] = B_24H;
    memory[REGISTER_D] = D_VRT;
    const auto store16 = [&memory](std::size_t at, std::uint64_t value) {
        memory[at] = static_cast<std::uint8_t>(value);
        memory[at + 1] = static_cast<std::uint8_t>(value >> 8);
    };
    // Memory sizes where firmware and old systems look for them: base in KiB, above 1 MiB
    // in KiB (twice), above 16 MiB in 64 KiB units, above 4 GiB in 64 KiB units.
    constexpr std::uint64_t mib = 1 << 20;
    const std::uint64_t low = config.low_memory;
    store16(0x15, std::min<std::uint64_t>(low / 1024, 640));
    const std::uint64_t extended = low > mib ? std::min<std::uint64_t>((low - mib) / 1024, 0xffff) : 0;
    store16(0x17, extended);
    store16(0x30, extended);
    store16(0x34, low > 16 * mib ? std::min<std::uint64_t>((low - 16 * mib) / 65536, 0xffff) : 0);
    store16(0x5b, config.high_memory / 65536);
    memory[0x5d] = static_cast<std::uint8_t>(config.high_memory / 65536 >> 16);
    reset();
}

// The RESET pin clears the interrupt enables and flags; time and memory have a battery.
void Rtc::reset()
{
    state_.memory[REGISTER_B] &= B_SET | B_DM | B_24H | 1;
    state_.memory[REGISTER_C] = 0;
    state_.index = 0;
    state_.periodic_ticks = bus::ns_to_ticks(clock_.now_ns(), oscillator_hz);
    state_.update_seconds = vm_seconds();
    update();
}

std::uint64_t Rtc::vm_seconds() const
{
    return clock_.now_ns() / bus::ns_per_second;
}

std::int64_t Rtc::time_of_day() const
{
    if ((state_.memory[REGISTER_B] & B_SET) != 0) return fetch_time();
    return state_.offset_seconds + static_cast<std::int64_t>(vm_seconds());
}

std::uint8_t Rtc::encode(unsigned value) const
{
    if ((state_.memory[REGISTER_B] & B_DM) != 0) return static_cast<std::uint8_t>(value);
    return static_cast<std::uint8_t>((value / 10) << 4 | value % 10);
}

unsigned Rtc::decode(std::uint8_t value) const
{
    if ((state_.memory[REGISTER_B] & B_DM) != 0) return value;
    return (value >> 4) * 10u + (value & 15u);
}

std::uint8_t Rtc::encode_hour(unsigned hour) const
{
    if ((state_.memory[REGISTER_B] & B_24H) != 0) return encode(hour);
    const unsigned twelve = hour % 12 == 0 ? 12 : hour % 12;
    return static_cast<std::uint8_t>(encode(twelve) | (hour >= 12 ? 0x80 : 0));
}

unsigned Rtc::decode_hour(std::uint8_t value) const
{
    if ((state_.memory[REGISTER_B] & B_24H) != 0) return decode(value);
    return decode(value & 0x7f) % 12 + ((value & 0x80) != 0 ? 12u : 0u);
}

void Rtc::store_time(std::int64_t time)
{
    const Calendar now = calendar_of(time);
    auto& memory = state_.memory;
    memory[SECONDS] = encode(now.second);
    memory[MINUTES] = encode(now.minute);
    memory[HOURS] = encode_hour(now.hour);
    memory[DAY_OF_WEEK] = encode(now.weekday);
    memory[DAY] = encode(now.day);
    memory[MONTH] = encode(now.month);
    memory[YEAR] = encode(static_cast<unsigned>(now.year % 100));
    memory[CENTURY] = encode(static_cast<unsigned>(now.year / 100));
}

std::int64_t Rtc::fetch_time() const
{
    const auto& memory = state_.memory;
    return seconds_of({decode(memory[CENTURY]) % 100 * 100 + decode(memory[YEAR]) % 100,
                       decode(memory[MONTH]), decode(memory[DAY]), 0, decode_hour(memory[HOURS]),
                       decode(memory[MINUTES]), decode(memory[SECONDS])});
}

std::uint8_t Rtc::read_time(unsigned index)
{
    if ((state_.memory[REGISTER_B] & B_SET) == 0) store_time(time_of_day());
    return state_.memory[index];
}

void Rtc::write_time(unsigned index, std::uint8_t value)
{
    const bool set = (state_.memory[REGISTER_B] & B_SET) != 0;
    if (!set) store_time(time_of_day());
    state_.memory[index] = value;
    if (!set) state_.offset_seconds = fetch_time() - static_cast<std::int64_t>(vm_seconds());
}

bool Rtc::update_in_progress() const
{
    if ((state_.memory[REGISTER_B] & B_SET) != 0) return false;
    return clock_.now_ns() % bus::ns_per_second >= bus::ns_per_second - update_ns;
}

std::uint8_t Rtc::read_register(unsigned index)
{
    update();
    switch (index) {
    case SECONDS: case MINUTES: case HOURS: case DAY_OF_WEEK: case DAY: case MONTH: case YEAR:
    case CENTURY: return read_time(index);
    case REGISTER_A:
        return static_cast<std::uint8_t>(state_.memory[index] | (update_in_progress() ? A_UIP : 0));
    case REGISTER_C: {
        const std::uint8_t flags = state_.memory[REGISTER_C];
        state_.memory[REGISTER_C] = 0;
        update();
        return flags;
    }
    default: return state_.memory[index];
    }
}

void Rtc::write_register(unsigned index, std::uint8_t value)
{
    update();
    switch (index) {
    case SECONDS: case MINUTES: case HOURS: case DAY_OF_WEEK: case DAY: case MONTH: case YEAR:
    case CENTURY: write_time(index, value); break;
    case REGISTER_A:
        state_.memory[index] = value & 0x7f;
        state_.periodic_ticks = bus::ns_to_ticks(clock_.now_ns(), oscillator_hz);
        break;
    case REGISTER_B: {
        // While SET is on the registers are plain memory, so that they can be written in
        // any order and become a time together.
        const std::uint8_t old = state_.memory[index];
        const bool set = (value & B_SET) != 0;
        const bool was_set = (old & B_SET) != 0;
        if (set) value &= static_cast<std::uint8_t>(~B_UIE);
        if (set && !was_set) store_time(time_of_day());
        state_.memory[index] = value;
        if (!set && was_set) {
            state_.offset_seconds = fetch_time() - static_cast<std::int64_t>(vm_seconds());
        }
        if ((value & B_PIE) != 0 && (old & B_PIE) == 0) {
            state_.periodic_ticks = bus::ns_to_ticks(clock_.now_ns(), oscillator_hz);
        }
        break;
    }
    case REGISTER_C:
    case REGISTER_D: break;  // read-only
    default: state_.memory[index] = value; break;
    }
    update();
}

bool Rtc::alarm_matches(std::int64_t time) const
{
    const Calendar now = calendar_of(time);
    const auto& memory = state_.memory;
    // Two top bits set: any value matches.
    const auto any = [](std::uint8_t value) { return (value & 0xc0) == 0xc0; };
    return (any(memory[SECONDS_ALARM]) || memory[SECONDS_ALARM] == encode(now.second)) &&
           (any(memory[MINUTES_ALARM]) || memory[MINUTES_ALARM] == encode(now.minute)) &&
           (any(memory[HOURS_ALARM]) || memory[HOURS_ALARM] == encode_hour(now.hour));
}

std::uint64_t Rtc::seconds_to_alarm(std::int64_t time) const
{
    const auto any = [](std::uint8_t value) { return (value & 0xc0) == 0xc0; };
    const auto& memory = state_.memory;
    // Steps over hours, minutes and seconds that cannot match: at most 24 + 60 + 60 looks.
    std::int64_t at = time + 1;
    const std::int64_t end = time + seconds_per_day;
    while (at < end) {
        const Calendar c = calendar_of(at);
        if (!any(memory[HOURS_ALARM]) && memory[HOURS_ALARM] != encode_hour(c.hour)) {
            at += 3600 - (c.minute * 60 + c.second);
        } else if (!any(memory[MINUTES_ALARM]) && memory[MINUTES_ALARM] != encode(c.minute)) {
            at += 60 - c.second;
        } else if (!any(memory[SECONDS_ALARM]) && memory[SECONDS_ALARM] != encode(c.second)) {
            ++at;
        } else {
            break;
        }
    }
    return static_cast<std::uint64_t>(std::min(at, end) - time);
}

std::uint64_t Rtc::periodic_ticks_per_interrupt() const
{
    // Rates 1 and 2 repeat 8 and 9 with a 32768 Hz time base (data sheet, table 5).
    unsigned rate = state_.memory[REGISTER_A] & 15u;
    if (rate == 0) return 0;
    if (rate <= 2) rate += 7;
    return std::uint64_t{1} << (rate - 1);
}

void Rtc::update()
{
    const std::uint64_t now_ns = clock_.now_ns();
    const std::uint64_t ticks = bus::ns_to_ticks(now_ns, oscillator_hz);
    const std::uint64_t seconds = now_ns / bus::ns_per_second;
    const bool set = (state_.memory[REGISTER_B] & B_SET) != 0;
    std::uint8_t& flags = state_.memory[REGISTER_C];

    const std::uint64_t period = periodic_ticks_per_interrupt();
    if (period != 0 && ticks / period != state_.periodic_ticks / period) flags |= C_PF;
    state_.periodic_ticks = ticks;

    if (seconds > state_.update_seconds && !set) {
        flags |= C_UF;
        const auto before = state_.offset_seconds + static_cast<std::int64_t>(state_.update_seconds);
        const std::uint64_t passed = seconds - state_.update_seconds;
        const std::uint64_t to_alarm = seconds_to_alarm(before);
        if (to_alarm <= passed &&
            alarm_matches(before + static_cast<std::int64_t>(to_alarm))) {
            flags |= C_AF;
        }
    }
    state_.update_seconds = seconds;

    // The enables of register B are at the flags' places in register C.
    const unsigned enabled = state_.memory[REGISTER_B] & (B_PIE | B_AIE | B_UIE);
    flags = static_cast<std::uint8_t>((flags & ~C_IRQF) | ((flags & enabled) != 0 ? C_IRQF : 0));
    interrupts_.set_line(irq, (flags & C_IRQF) != 0);

    // While the line is up nothing new can happen that the guest would notice.
    std::uint64_t next = ~std::uint64_t{0};
    if ((flags & C_IRQF) == 0) {
        if ((enabled & B_PIE) != 0 && period != 0) {
            next = bus::ticks_to_ns((ticks / period + 1) * period, oscillator_hz);
        }
        if (!set && (enabled & (B_AIE | B_UIE)) != 0) {
            const std::uint64_t wait = (enabled & B_UIE) != 0 ? 1 : seconds_to_alarm(time_of_day());
            next = std::min(next, (seconds + wait) * bus::ns_per_second);
        }
    }
    if (next == ~std::uint64_t{0}) {
        timer_->cancel();
    } else {
        timer_->arm(next);
    }
}

void Rtc::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        // Port 0x70 is write-only.
        const bool data_port = ((offset + i) & 1) != 0;
        data[i] = static_cast<std::byte>(data_port ? read_register(state_.index & 0x7f) : 0xff);
    }
}

void Rtc::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        const auto value = std::to_integer<std::uint8_t>(data[i]);
        if (((offset + i) & 1) == 0) {
            state_.index = value;
        } else {
            write_register(state_.index & 0x7f, value);
        }
    }
}

void Rtc::save(base::StateWriter& writer) const
{
    writer.section("rtc", 1, state_);
}

base::Result<void> Rtc::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("rtc", 1));
    constexpr std::int64_t limit = std::int64_t{1} << 50;
    if (state.offset_seconds < -limit || state.offset_seconds > limit) {
        return base::io_error("Saved state of 'rtc' holds an impossible time");
    }
    state_ = state;
    // Saved on a clock that may have been ahead of this one.
    state_.update_seconds = std::min(state_.update_seconds, vm_seconds());
    update();
    return {};
}

}  // namespace doppel::devices
