// What devices under test are wired to.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "backends/character/character_backend.h"
#include "base/bytes.h"
#include "bus/bus.h"
#include "bus/interrupts.h"

namespace doppel::devices {

// Lines, and how often each rose.
class FakeInterrupts final : public bus::InterruptSink {
public:
    void set_line(unsigned gsi, bool level) noexcept override
    {
        if (gsi >= lines.size()) return;
        if (level && !lines[gsi]) ++rises[gsi];
        lines[gsi] = level;
    }
    void send_msi(const bus::Msi& message) noexcept override { messages.push_back(message); }

    std::array<bool, 24> lines{};
    std::array<unsigned, 24> rises{};
    std::vector<bus::Msi> messages;
};

class FakeLocalInterrupts final : public bus::LocalInterrupts {
public:
    void deliver(const bus::Msi& message) noexcept override { messages.push_back(message); }
    void set_external_interrupt(bool level) noexcept override { external = level; }
    void inject_nmi() noexcept override { ++nmis; }

    std::vector<bus::Msi> messages;
    bool external = false;
    unsigned nmis = 0;
};

class FakeConsole final : public backends::CharacterBackend {
public:
    std::size_t write(std::span<const std::byte> bytes) noexcept override
    {
        const std::size_t count = std::min(bytes.size(), room);
        for (std::size_t i = 0; i < count; ++i) output += std::to_integer<char>(bytes[i]);
        room -= count;
        return count;
    }
    [[nodiscard]] std::size_t output_room() const noexcept override { return room; }
    std::size_t read(std::span<std::byte> bytes) noexcept override
    {
        std::size_t count = 0;
        while (count < bytes.size() && !input.empty()) {
            bytes[count++] = static_cast<std::byte>(input.front());
            input.pop_front();
        }
        return count;
    }
    [[nodiscard]] std::size_t input_available() const noexcept override { return input.size(); }
    void set_input_callback(std::function<void()> callback) override
    {
        on_input = std::move(callback);
    }
    void set_writable_callback(std::function<void()> callback) override
    {
        on_writable = std::move(callback);
    }
    void flush() noexcept override {}

    void type(std::string_view text)
    {
        input.insert(input.end(), text.begin(), text.end());
        on_input();
    }

    std::string output;
    std::size_t room = 1 << 20;
    std::deque<char> input;
    std::function<void()> on_input;
    std::function<void()> on_writable;
};

inline std::uint64_t in(bus::BusDevice& device, std::uint64_t offset, std::size_t size = 1)
{
    std::array<std::byte, 8> data{};
    device.read(offset, std::span{data}.first(size));
    return base::load_bytes(data);
}

inline void out(bus::BusDevice& device, std::uint64_t offset, std::uint64_t value,
                std::size_t size = 1)
{
    std::array<std::byte, 8> data{};
    base::store_bytes(data, value);
    device.write(offset, std::span<const std::byte>{data}.first(size));
}

// Saves `from` and loads the stream into `to`.
template <typename From, typename To>
bool copy_state(const From& from, To& to)
{
    base::StateWriter writer;
    from.save(writer);
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    return reader.has_value() && to.load(*reader).has_value();
}

}  // namespace doppel::devices
