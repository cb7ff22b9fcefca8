// MC146818 real-time clock with 128 bytes of CMOS memory, ports 0x70 and 0x71.
//
// Time of day is the host's UTC when the machine starts plus the VM's clock, plus what
// the guest set. Battery-backed memory survives reset(). IRQ 8 is raised for the
// periodic, alarm and update-ended interrupts until register C is read.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/clock.h"
#include "bus/interrupts.h"

namespace doppel::devices {

class Rtc final : public bus::BusDevice {
public:
    static constexpr std::uint64_t port_count = 2;

    struct Config {
        std::int64_t start_seconds;     // UTC at VM time zero, since 1970
        std::uint64_t low_memory;       // bytes of RAM below 4 GiB
        std::uint64_t high_memory;      // bytes of RAM from 4 GiB on
    };
    Rtc(bus::Bus& bus, bus::InterruptSink& interrupts, bus::VmClock& clock, const Config& config);

    // Now, for Config::start_seconds.
    [[nodiscard]] static std::int64_t host_utc_seconds();

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;

    // Bit 7 of port 0x70: the guest wants no NMIs. Whoever injects one asks here.
    [[nodiscard]] bool nmi_masked() const { return (state_.index & 0x80) != 0; }

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    struct State {
        std::array<std::uint8_t, 128> memory;
        std::int64_t offset_seconds;  // time of day = VM seconds + this; while register B
                                      // has SET, what the time registers in memory say
        std::uint64_t periodic_ticks;          // 32768 Hz ticks up to which PF is accounted
        std::uint64_t update_seconds;          // VM seconds up to which UF and AF are accounted
        std::uint8_t index;                    // bit 7: NMI mask
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    [[nodiscard]] std::uint64_t vm_seconds() const;
    [[nodiscard]] std::int64_t time_of_day() const;
    [[nodiscard]] std::uint8_t encode(unsigned value) const;
    [[nodiscard]] unsigned decode(std::uint8_t value) const;
    [[nodiscard]] std::uint8_t encode_hour(unsigned hour) const;
    [[nodiscard]] unsigned decode_hour(std::uint8_t value) const;
    // The time registers in memory: from a time, and back.
    void store_time(std::int64_t time);
    [[nodiscard]] std::int64_t fetch_time() const;
    [[nodiscard]] std::uint8_t read_time(unsigned index);
    void write_time(unsigned index, std::uint8_t value);
    [[nodiscard]] std::uint8_t read_register(unsigned index);
    void write_register(unsigned index, std::uint8_t value);
    [[nodiscard]] bool update_in_progress() const;
    [[nodiscard]] bool alarm_matches(std::int64_t time) const;
    // Seconds from `time` (exclusive) to the next alarm, at most a day.
    [[nodiscard]] std::uint64_t seconds_to_alarm(std::int64_t time) const;
    [[nodiscard]] std::uint64_t periodic_ticks_per_interrupt() const;
    // Brings the flags in register C up to the present, the line too, and arms the timer.
    void update();

    bus::Bus& bus_;
    bus::InterruptSink& interrupts_;
    bus::VmClock& clock_;
    std::unique_ptr<bus::Timer> timer_;
    State state_{};
};

}  // namespace doppel::devices
