// A fuzzer's bytes as what happens to a device: register accesses, time, lines, input,
// reset, save and load.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <span>

#include "backends/character/character_backend.h"
#include "base/bytes.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/interrupts.h"
#include "bus/manual_clock.h"

namespace doppel::fuzz {

// Unlike assert(), also in optimised builds.
inline void require(bool condition)
{
    if (!condition) std::abort();
}

class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}
    [[nodiscard]] bool empty() const { return bytes_.empty(); }
    std::uint8_t byte()
    {
        if (bytes_.empty()) return 0;
        const std::uint8_t value = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return value;
    }
    std::uint64_t bytes(unsigned count)
    {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < count; ++i) value |= std::uint64_t{byte()} << (8 * i);
        return value;
    }

private:
    std::span<const std::uint8_t> bytes_;
};

struct Interrupts final : bus::InterruptSink {
    void set_line(unsigned gsi, bool level) noexcept override
    {
        require(gsi < 24);
        lines[gsi] = level;
    }
    void send_msi(const bus::Msi&) noexcept override {}
    std::array<bool, 24> lines{};
};

struct LocalInterrupts final : bus::LocalInterrupts {
    void deliver(const bus::Msi& message) noexcept override
    {
        require((message.address & 0xfff00000) == 0xfee00000);
    }
    void set_external_interrupt(bool level) noexcept override { external = level; }
    void inject_nmi() noexcept override {}
    bool external = false;
};

struct Console final : backends::CharacterBackend {
    std::size_t write(std::span<const std::byte> bytes) noexcept override
    {
        const std::size_t count = std::min(bytes.size(), room);
        room -= count;
        return count;
    }
    [[nodiscard]] std::size_t output_room() const noexcept override { return room; }
    std::size_t read(std::span<std::byte> bytes) noexcept override
    {
        std::size_t count = 0;
        while (count < bytes.size() && !input.empty()) {
            bytes[count++] = input.front();
            input.pop_front();
        }
        return count;
    }
    [[nodiscard]] std::size_t input_available() const noexcept override { return input.size(); }
    void set_input_callback(std::function<void()> call) override { on_input = std::move(call); }
    void set_writable_callback(std::function<void()> call) override
    {
        on_writable = std::move(call);
    }
    void flush() noexcept override {}

    std::size_t room = 64;
    std::deque<std::byte> input;
    std::function<void()> on_input;
    std::function<void()> on_writable;
};

// One access of 1, 2, 4 or 8 bytes at an offset below `range`, as a bus makes them.
inline void access(Input& input, bus::BusDevice& device, std::uint64_t range)
{
    const std::uint8_t kind = input.byte();
    const unsigned size = 1u << (kind & 3);
    const std::uint64_t offset = input.bytes(range > 0x10000 ? 4 : 2) % range;
    std::array<std::byte, 8> data{};
    const auto part = std::span{data}.first(offset + size > range ? 1 : size);
    if ((kind & 4) != 0) {
        device.read(offset, part);
    } else {
        base::store_bytes(data, input.bytes(size));
        device.write(offset, part);
    }
}

inline std::uint8_t read_byte(bus::BusDevice& device, std::uint64_t offset)
{
    std::byte value{};
    device.read(offset, {&value, 1});
    return std::to_integer<std::uint8_t>(value);
}

// At most a day: long enough for every counter to wrap.
inline void pass_time(Input& input, bus::ManualClock& clock)
{
    const unsigned shift = input.byte() % 47;
    clock.advance((std::uint64_t{1} << shift) - 1 + input.byte());
}

// What was saved must load, and save to the same bytes.
template <typename Device>
void round_trip(Device& device)
{
    base::StateWriter first;
    device.save(first);
    const auto stream = first.finish();
    const auto reader = base::StateReader::open(stream);
    require(reader.has_value());
    require(device.load(*reader).has_value());
    base::StateWriter second;
    device.save(second);
    require(second.finish() == stream);
}

// A State made of the fuzzer's bytes: refused, or harmless.
template <typename State, typename Device>
void hostile_load(Input& input, Device& device, std::string_view section)
{
    std::array<std::byte, sizeof(State)> bytes{};
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(input.byte());
    base::StateWriter writer;
    writer.section(section, 1, std::span<const std::byte>{bytes});
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    require(reader.has_value());
    static_cast<void>(device.load(*reader).has_value());
}

}  // namespace doppel::fuzz
