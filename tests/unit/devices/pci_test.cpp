#include <gtest/gtest.h>

#include "base/bytes.h"
#include "devices/pci/pci_host.h"

namespace doppel::devices {
namespace {

constexpr std::uint64_t ecam = 0xb0000000;

struct ResetRegister final : bus::BusDevice {
    std::uint64_t written = 0;
    void read(std::uint64_t, std::span<std::byte> data) noexcept override { data[0] = std::byte{6}; }
    void write(std::uint64_t, std::span<const std::byte> data) noexcept override
    {
        written = base::load_bytes(data);
    }
};

class Nic final : public PciFunction {
public:
    Nic() : PciFunction("nic", {0x1af4, 0x1041, 0x020000, 1, 0x1af4, 1})
    {
        define_memory_bar(0, 0x4000, true, false, behind);
        define_io_bar(2, 32, behind);
    }
    using PciFunction::bar_address;
    ResetRegister behind;  // answers 6 wherever it is
    int changes = 0;
    void mapping_changed() noexcept override { ++changes; }
};

struct World {
    bus::Bus bus;
    ResetRegister reset;
    Nic nic;
    PciHost host;
    World()
    {
        host.claim(bus, 0xcf8, ecam, 256, reset);
        host.attach(3, 0, nic);
    }
    std::uint64_t in(std::uint64_t port, std::size_t size, bus::Space space = bus::Space::port)
    {
        std::array<std::byte, 8> data{};
        bus.read(space, port, std::span{data}.first(size));
        return base::load_bytes(std::span{data}.first(size));
    }
    void out(std::uint64_t port, std::size_t size, std::uint64_t value, bus::Space space = bus::Space::port)
    {
        std::array<std::byte, 8> data{};
        base::store_bytes(data, value);
        bus.write(space, port, std::span{data}.first(size));
    }
    void select(unsigned device, unsigned reg) { out(0xcf8, 4, 0x80000000u | device << 11 | reg); }
};

TEST(PciHost, BridgeAnswersThroughBothMechanisms)
{
    World world;
    world.select(0, 0);
    EXPECT_EQ(world.in(0xcfc, 4), 0x12378086u);
    EXPECT_EQ(world.in(0xcfe, 2), 0x1237u);
    EXPECT_EQ(world.in(ecam, 4, bus::Space::memory), 0x12378086u);
    world.select(0, 8);
    EXPECT_EQ(world.in(0xcff, 1), 0x06u);
    EXPECT_EQ(world.in(0xcfe, 1), 0x00u);
}

TEST(PciHost, AbsentFunctionsReadAsOnes)
{
    World world;
    world.select(1, 0);
    EXPECT_EQ(world.in(0xcfc, 4), 0xffffffffu);
    EXPECT_EQ(world.in(ecam + (1u << 20), 4, bus::Space::memory), 0xffffffffu);
    world.out(0xcf8, 4, 0);  // not enabled
    EXPECT_EQ(world.in(0xcfc, 4), 0xffffffffu);
}

TEST(PciHost, AddressRegisterTakesDwordsOnly)
{
    World world;
    world.out(0xcf8, 4, 0xffffffff);
    EXPECT_EQ(world.in(0xcf8, 4), 0x80fffffcu);
    world.out(0xcf8, 2, 0);
    EXPECT_EQ(world.in(0xcf8, 4), 0x80fffffcu);
    world.out(0xcf9, 1, 0x0e);
    EXPECT_EQ(world.reset.written, 0x0eu);
    EXPECT_EQ(world.in(0xcf9, 1), 6u);
}

TEST(PciFunction, ReadOnlyBitsStay)
{
    World world;
    world.select(3, 0);
    world.out(0xcfc, 4, 0);
    EXPECT_EQ(world.in(0xcfc, 4), 0x10411af4u);
    world.select(3, 4);
    world.out(0xcfc, 2, 0xffff);
    EXPECT_EQ(world.in(0xcfc, 2), 0x0547u);
}

TEST(PciFunction, BarsAreSizedAndMapped)
{
    World world;
    world.select(3, 0x10);
    world.out(0xcfc, 4, 0xffffffff);
    EXPECT_EQ(world.in(0xcfc, 4), 0xffffc004u);
    world.out(0xcfc, 4, 0xc0000000);
    world.select(3, 0x14);
    world.out(0xcfc, 4, 0x7);
    EXPECT_EQ(world.nic.bar_address(0), 0u);
    world.select(3, 4);
    world.out(0xcfc, 2, 2);
    EXPECT_EQ(world.nic.bar_address(0), 0x7c0000000u);
    world.select(3, 0x18);
    world.out(0xcfc, 4, 0xffffffff);
    EXPECT_EQ(world.in(0xcfc, 4), 0xffe1u);
    EXPECT_GT(world.nic.changes, 4);
    world.host.reset();
    EXPECT_EQ(world.nic.bar_address(0), 0u);
}

TEST(PciFunction, StateRoundTripAndForeignState)
{
    World world;
    world.select(3, 4);
    world.out(0xcfc, 2, 2);
    base::StateWriter writer;
    world.nic.save(writer);
    world.host.save(writer);
    const auto stream = writer.finish();
    World other;
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(reader);
    ASSERT_TRUE(other.nic.load(*reader));
    ASSERT_TRUE(other.host.load(*reader));
    EXPECT_EQ(other.in(0xcfc, 2), 2u);
    PciFunction stranger{"nic", {1, 2, 3, 4, 5, 6}};
    EXPECT_FALSE(stranger.load(*reader));
}

}  // namespace
}  // namespace doppel::devices
