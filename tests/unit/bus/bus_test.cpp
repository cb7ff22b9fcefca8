#include "bus/bus.h"

#include <gtest/gtest.h>

#include "base/bytes.h"

namespace doppel::bus {
namespace {

struct Recorder final : BusDevice {
    std::vector<std::pair<std::uint64_t, std::size_t>> reads, writes;
    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override
    {
        reads.emplace_back(offset, data.size());
        for (auto& byte : data) byte = std::byte{0x11};
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override
    {
        writes.emplace_back(offset, data.size());
    }
};

TEST(Bus, RoutesByRangeAndSpace)
{
    Bus bus;
    Recorder port;
    Recorder memory;
    bus.claim(Space::port, 0x3f8, 8, port);
    bus.claim(Space::memory, 0x3f8, 8, memory);
    std::array<std::byte, 1> byte{};
    bus.read(Space::port, 0x3fd, byte);
    bus.write(Space::memory, 0x3f8, byte);
    EXPECT_EQ(port.reads, (std::vector<std::pair<std::uint64_t, std::size_t>>{{5, 1}}));
    EXPECT_EQ(memory.writes, (std::vector<std::pair<std::uint64_t, std::size_t>>{{0, 1}}));
}

TEST(Bus, NothingThereReadsAsOnes)
{
    Bus bus;
    std::array<std::byte, 4> data{};
    bus.read(Space::memory, 0x1000, data);
    EXPECT_EQ(base::load_bytes(data), 0xffffffffu);
    bus.write(Space::memory, ~0ull, data);
    EXPECT_EQ(bus.unclaimed(), 8u);
}

TEST(Bus, SplitsAtTheEndOfARange)
{
    Bus bus;
    Recorder device;
    bus.claim(Space::port, 0x10, 2, device);
    std::array<std::byte, 4> data{};
    bus.read(Space::port, 0x11, data);
    EXPECT_EQ(base::load_bytes(data), 0xffffff11u);
    EXPECT_EQ(device.reads, (std::vector<std::pair<std::uint64_t, std::size_t>>{{1, 1}}));
    bus.release(Space::port, 0x10);
    bus.read(Space::port, 0x11, data);
    EXPECT_EQ(base::load_bytes(data), 0xffffffffu);
}

}  // namespace
}  // namespace doppel::bus
