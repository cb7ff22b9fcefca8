#include <gtest/gtest.h>
#include <unistd.h>

#include "devices/virtio/rng/rng.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

constexpr std::uint64_t data = 0x80000;

base::Result<std::unique_ptr<Device>> make_rng(base::EventLoop&)
{
    return std::unique_ptr<Device>{std::make_unique<Rng>()};
}

struct RngOverPci : testing::Test {
    VirtioWorld world;
    PciDriver driver{world, world.frontend(make_rng)};

    // Bytes of [data, data + size) that are not zero.
    unsigned filled(std::uint32_t size)
    {
        unsigned count = 0;
        for (const std::byte byte : world.memory->span(base::Gpa{data}, size)) {
            count += byte != std::byte{0} ? 1 : 0;
        }
        return count;
    }
};

TEST_F(RngOverPci, IsFoundByItsCapabilities)
{
    EXPECT_EQ(driver.config(0, 4), 0x10051af4u);
    EXPECT_EQ(driver.config(0x2e, 2), 4u);
    EXPECT_EQ(driver.config(6, 2) & 0x10, 0x10u);
    unsigned seen = 0;
    for (auto at = static_cast<unsigned>(driver.config(0x34, 1)); at != 0;
         at = static_cast<unsigned>(driver.config(at + 1, 1))) {
        if (driver.config(at, 1) == 9) seen |= 1u << driver.config(at + 3, 1);
        if (driver.config(at, 1) == 0x11) seen |= 1;
    }
    EXPECT_EQ(seen, 0b111111u);
    EXPECT_EQ(driver.in(0x12, 2), 1u);
    EXPECT_EQ(driver.in(0x18, 2), 64u);
}

TEST_F(RngOverPci, FillsBuffersAndInterrupts)
{
    for (const Features features : {Features{0}, VIRTIO_F_RING_PACKED}) {
        TestDriver ring{*world.memory, 16, features};
        ASSERT_TRUE(driver.negotiate(features | VIRTIO_F_VERSION_1));
        world.memory->clear();
        world.interrupts.messages.clear();
        driver.enable_msix(2);
        driver.set_queue(0, ring.address(), 1);
        driver.ready();
        ring.add({{data, 64, true}, {data + 64, 64, true}});
        driver.ring(0);
        const auto used = ring.take();
        ASSERT_TRUE(used);
        EXPECT_EQ(used->written, 128u);
        EXPECT_GT(filled(128), 64u);
        ASSERT_EQ(world.interrupts.messages.size(), 1u);
        EXPECT_EQ(world.interrupts.messages[0], (bus::Msi{0xfee00000, 0x41}));
    }
}

TEST_F(RngOverPci, DoorbellsRingWithoutTheBus)
{
    TestDriver ring{*world.memory, 16, 0};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    driver.set_queue(0, ring.address(), 0);
    driver.ready();
    ring.add({{data, 64, true}});
    EXPECT_TRUE(world.doorbells.ring(bus::Space::memory, 0xc0004000 + 0x3000, 2, 0));
    driver.pump();
    EXPECT_TRUE(ring.take());
    // It follows the BAR, and leaves with the driver.
    driver.set_config(0x20, 0xd0000000, 4);
    EXPECT_FALSE(world.doorbells.ring(bus::Space::memory, 0xc0004000 + 0x3000, 2, 0));
    EXPECT_TRUE(world.doorbells.ring(bus::Space::memory, 0xd0000000 + 0x3000, 2, 0));
    driver.out(0x14, 0, 1);
    EXPECT_FALSE(world.doorbells.ring(bus::Space::memory, 0xd0000000 + 0x3000, 2, 0));
}

TEST_F(RngOverPci, LineIsPulledUntilTheStatusIsRead)
{
    TestDriver ring{*world.memory, 16, 0};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    driver.set_queue(0, ring.address(), VIRTIO_MSI_NO_VECTOR);
    driver.ready();
    ring.add({{data, 64, true}});
    driver.ring(0);
    EXPECT_TRUE(world.interrupts.lines[16]);
    EXPECT_EQ(driver.config(6, 2) & 8, 8u);
    EXPECT_EQ(driver.in(0x1000, 1), 1u);
    EXPECT_FALSE(world.interrupts.lines[16]);
    EXPECT_EQ(driver.in(0x1000, 1), 0u);
}

TEST_F(RngOverPci, FeaturesAreAgreedOn)
{
    EXPECT_FALSE(driver.negotiate(0));  // no VERSION_1
    EXPECT_FALSE(driver.negotiate(VIRTIO_F_VERSION_1 | 1));
    EXPECT_EQ(driver.offered() & VIRTIO_F_ACCESS_PLATFORM, 0u);
    driver.out(0x14, 15, 1);
    EXPECT_EQ(driver.in(0x14, 1) & status::DRIVER_OK, 0u);

    PciDriver masked{world, world.frontend(make_rng, ~VIRTIO_F_RING_PACKED)};
    EXPECT_EQ(masked.offered() & VIRTIO_F_RING_PACKED, 0u);
    // Offered, it is insisted on, and there is no legacy interface then.
    EXPECT_EQ(masked.config(0, 4), 0x10441af4u);
    EXPECT_FALSE(masked.negotiate(VIRTIO_F_VERSION_1));
    EXPECT_TRUE(masked.negotiate(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM));
}

TEST_F(RngOverPci, BrokenRingNeedsAReset)
{
    TestDriver ring{*world.memory, 16, 0};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    driver.set_queue(0, ring.address(), 0);
    driver.ready();
    ring.add({{test_ram, 64, true}});
    driver.ring(0);
    EXPECT_EQ(driver.in(0x14, 1), 15u | status::DEVICE_NEEDS_RESET);
    EXPECT_EQ(driver.in(0x1000, 1) & 2, 2u);  // a change of configuration
    // And works again behind it.
    world.memory->clear();
    TestDriver next{*world.memory, 16, 0};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    EXPECT_EQ(driver.in(0x14, 1), 11u);
    driver.set_queue(0, next.address(), 0);
    driver.ready();
    next.add({{data, 64, true}});
    driver.ring(0);
    EXPECT_TRUE(next.take());
}

TEST_F(RngOverPci, RingThatIsNotMemoryNeedsAReset)
{
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    driver.set_queue(0, {16, test_ram, 0x1000, 0x2000}, 0);
    driver.ready();
    EXPECT_EQ(driver.in(0x14, 1), 15u | status::DEVICE_NEEDS_RESET);
    driver.ring(0);
}

TEST_F(RngOverPci, SettingsOfAnActiveQueueStay)
{
    TestDriver ring{*world.memory, 16, 0};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    driver.set_queue(0, ring.address(), 0);
    driver.ready();
    driver.set_queue(0, {8, 0, 0, 0}, 0);
    EXPECT_EQ(driver.in(0x18, 2), 16u);
    EXPECT_EQ(driver.in(0x20, 8), ring.address().descriptors);
    driver.out(0x16, 7, 2);  // no such queue
    driver.out(0x1c, 1, 2);
    EXPECT_EQ(driver.in(0x18, 2), 0u);
    EXPECT_EQ(driver.in(0x1c, 2), 0u);
}

TEST_F(RngOverPci, RegistersThroughConfigSpace)
{
    driver.set_config(0x98, 4, 1);
    driver.set_config(0x9c, 0x14, 4);
    driver.set_config(0xa0, 1, 4);
    driver.set_config(0xa4, 1, 4);  // device_status = ACKNOWLEDGE
    EXPECT_EQ(driver.in(0x14, 1), 1u);
    EXPECT_EQ(driver.config(0xa4, 1), 1u);
    driver.set_config(0x9c, 0xfffffff0, 4);  // outside: nothing happens
    driver.set_config(0xa4, 0, 4);
    EXPECT_EQ(driver.in(0x14, 1), 1u);
}

TEST_F(RngOverPci, StateIsSavedInMidFlight)
{
    for (const Features features : {Features{0}, VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX}) {
        TestDriver ring{*world.memory, 4, features};
        world.memory->clear();
        ASSERT_TRUE(driver.negotiate(features | VIRTIO_F_VERSION_1));
        driver.enable_msix(2);
        driver.set_queue(0, ring.address(), 1);
        driver.ready();
        for (int i = 0; i < 7; ++i) {  // round the ring, and odd
            ring.add({{data, 64, true}});
            driver.ring(0);
            ASSERT_TRUE(ring.take());
        }
        ring.add({{data, 64, true}});  // without a ring: that would be the other machine's
        base::StateWriter writer;
        driver.transport.save(writer);
        const auto stream = writer.finish();

        PciDriver other{world, world.frontend(make_rng)};
        const auto reader = base::StateReader::open(stream);
        ASSERT_TRUE(reader);
        ASSERT_TRUE(other.transport.load(*reader));
        other.pump();
        EXPECT_TRUE(ring.take());
        EXPECT_EQ(other.in(0x14, 1), 15u);
        world.interrupts.messages.clear();
        ring.want(TestDriver::Interrupts::at_next);
        ring.add({{data, 64, true}});
        EXPECT_TRUE(ring.must_ring());
        other.ring(0);
        EXPECT_TRUE(ring.take());
        EXPECT_EQ(world.interrupts.messages.size(), 1u);
    }
}

TEST_F(RngOverPci, HostileStateIsRefused)
{
    TestDriver ring{*world.memory, 4, VIRTIO_F_RING_PACKED};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED));
    driver.set_queue(0, ring.address(), 0);
    driver.ready();
    base::StateWriter writer;
    driver.transport.save(writer);
    const auto stream = writer.finish();
    // A device without packed rings cannot go on from there.
    PciDriver other{world, world.frontend(make_rng, ~(VIRTIO_F_RING_PACKED | VIRTIO_F_ACCESS_PLATFORM))};
    const auto reader = base::StateReader::open(stream);
    EXPECT_FALSE(other.transport.load(*reader));
}

TEST_F(RngOverPci, ThreadDoesTheSame)
{
    driver.transport.frontend().start();
    TestDriver ring{*world.memory, 16, 0};
    ASSERT_TRUE(driver.negotiate(VIRTIO_F_VERSION_1));
    driver.set_queue(0, ring.address(), VIRTIO_MSI_NO_VECTOR);
    driver.out(0x14, 15, 1);
    for (int i = 0; i < 100; ++i) {
        ring.add({{data, 64, true}});
        driver.out(0x3000, 0, 2);
        for (int tries = 0; tries < 10'000 && !ring.take(); ++tries) ::usleep(100);
        ASSERT_EQ(ring.room(), 16u);
    }
    driver.out(0x14, 0, 1);  // while the thread may still be at it
    driver.transport.frontend().stop();
}

TEST(VirtioLegacy, OneContiguousRing)
{
    VirtioWorld world;
    PciDriver driver{world, world.frontend(make_rng)};
    driver.transport.place_bar(0, 0xc000);
    bus::BusDevice& ports = driver.bar(0);
    EXPECT_EQ(in(ports, 12, 2), 64u);
    const std::uint64_t base = 0x10000;
    out(ports, 18, 3, 1);
    out(ports, 14, 0, 2);
    out(ports, 8, base / 4096, 4);
    EXPECT_EQ(in(ports, 8, 4), base / 4096);
    out(ports, 18, 7, 1);
    driver.pump();
    const auto put = [&](std::uint64_t at, auto value) {
        ASSERT_TRUE(world.memory->write_value(base::Gpa{at}, value));
    };
    put(base, SplitDescriptor{data, 64, VIRTQ_DESC_F_WRITE, 0});
    put(base + 16 * 64 + 4, std::uint16_t{0});
    put(base + 16 * 64 + 2, std::uint16_t{1});
    EXPECT_TRUE(world.doorbells.ring(bus::Space::port, 0xc010, 2, 0));
    driver.pump();
    std::uint16_t used = 0;
    ASSERT_TRUE(world.memory->read_value(base::Gpa{base + 4096 + 2}, used));
    EXPECT_EQ(used, 1u);
    EXPECT_TRUE(world.interrupts.lines[16]);
    EXPECT_EQ(in(ports, 19, 1), 1u);
    EXPECT_FALSE(world.interrupts.lines[16]);
}

TEST(VirtioMmio, FillsABuffer)
{
    VirtioWorld world;
    MmioTransport device{world.frontend(make_rng), world.line, 3, 0xfeb00000};
    EXPECT_EQ(in(device, 0, 4), 0x74726976u);
    EXPECT_EQ(in(device, 4, 4), 2u);
    EXPECT_EQ(in(device, 8, 4), 4u);
    TestDriver ring{*world.memory, 8, 0};
    const auto set = [&](std::uint64_t at, std::uint64_t value) { out(device, at, value, 4); };
    set(0x70, 3);
    set(0x24, 1);
    set(0x20, 1);
    set(0x70, 11);
    EXPECT_EQ(in(device, 0x70, 4), 11u);
    set(0x30, 0);
    EXPECT_EQ(in(device, 0x34, 4), 64u);
    set(0x38, 8);
    set(0x80, ring.address().descriptors);
    set(0x90, ring.address().driver);
    set(0xa0, ring.address().device);
    set(0x44, 1);
    set(0x70, 15);
    ring.add({{data, 64, true}});
    EXPECT_TRUE(world.doorbells.ring(bus::Space::memory, 0xfeb00050, 4, 0));
    VirtioWorld::pump(device.frontend());
    EXPECT_TRUE(ring.take());
    EXPECT_EQ(in(device, 0x60, 4), 1u);
    EXPECT_TRUE(world.interrupts.lines[16]);
    set(0x64, 1);
    EXPECT_FALSE(world.interrupts.lines[16]);
    set(0x70, 0);
    EXPECT_EQ(in(device, 0x44, 4), 0u);
}

TEST(Msix, MaskedMessagesWait)
{
    FakeInterrupts interrupts;
    Msix msix{interrupts, 3};
    out(msix, 16, 0xfee01000, 8);
    out(msix, 24, 0x51, 4);
    msix.raise(1);  // not enabled: lost
    msix.set_control(Msix::control_enable);
    msix.raise(1);  // masked since reset
    EXPECT_TRUE(interrupts.messages.empty());
    EXPECT_EQ(in(msix, Msix::pending_offset, 8), 2u);
    out(msix, 28, 0, 4);
    ASSERT_EQ(interrupts.messages.size(), 1u);
    EXPECT_EQ(interrupts.messages[0], (bus::Msi{0xfee01000, 0x51}));
    EXPECT_EQ(in(msix, Msix::pending_offset, 8), 0u);
    msix.raise(3);  // there is none
    out(msix, 48, 1, 4);
    EXPECT_EQ(in(msix, 48, 4), 0u);
}

}  // namespace
}  // namespace doppel::devices::virtio
