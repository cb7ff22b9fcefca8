// Devices through the whole of their transport: block over a file, console over fakes, balloon.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/block/block.h"
#include "devices/virtio/console/console.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

constexpr std::uint64_t header = 0x80000, data = 0x81000, status_byte = 0x90000;

struct TemporaryFile {
    std::string path = "/tmp/doppel-virtio-XXXXXX";
    explicit TemporaryFile(off_t size)
    {
        const base::Fd fd{::mkstemp(path.data())};
        EXPECT_EQ(::ftruncate(fd.get(), size), 0);
    }
    ~TemporaryFile() { ::unlink(path.c_str()); }
};

struct BlockTest : testing::Test {
    static constexpr std::uint64_t size = 1 << 20;
    VirtioWorld world;
    TemporaryFile file{size};
    bool read_only = false;
    std::unique_ptr<PciDriver> driver;
    std::unique_ptr<TestDriver> ring;

    void start(Features wanted = 0)
    {
        const auto make = [this](base::EventLoop& loop) -> base::Result<std::unique_ptr<Device>> {
            backends::BlockOptions options;
            options.path = file.path;
            options.format = backends::ImageFormat::raw;
            options.read_only = read_only;
            return std::unique_ptr<Device>{std::make_unique<Block>(
                TRY(backends::open_block(options, loop)), Block::Options{"serial-1", 2})};
        };
        driver.reset();  // and its lock on the file
        world.memory->clear();
        driver = std::make_unique<PciDriver>(world, world.frontend(make));
        wanted &= driver->offered();
        ASSERT_TRUE(driver->negotiate(wanted | VIRTIO_F_VERSION_1));
        ring = std::make_unique<TestDriver>(*world.memory, 16, wanted & VIRTIO_F_RING_PACKED);
        driver->set_queue(0, ring->address(), 0);
        driver->ready();
    }
    // The status; 0xee: none came.
    unsigned request(BlockType type, std::uint64_t sector, const std::vector<Buffer>& buffers)
    {
        EXPECT_TRUE(world.memory->write_value(
            base::Gpa{header}, BlockHeader{static_cast<std::uint32_t>(type), 0, sector}));
        EXPECT_TRUE(world.memory->write_value(base::Gpa{status_byte}, std::uint8_t{0xee}));
        std::vector<Buffer> all{{header, 16}};
        all.insert(all.end(), buffers.begin(), buffers.end());
        all.push_back({status_byte, 1, true});
        ring->add(all);
        driver->out(0x3000, 0, 2);
        for (int i = 0; i < 5000; ++i) {
            driver->pump();
            if (const auto used = ring->take()) {
                written = used->written;
                break;
            }
            ::usleep(1000);
        }
        std::uint8_t result = 0;
        EXPECT_TRUE(world.memory->read_value(base::Gpa{status_byte}, result));
        return result;
    }
    std::uint32_t written = 0;
};

TEST_F(BlockTest, WritesAndReads)
{
    for (const Features features : {Features{0}, VIRTIO_F_RING_PACKED}) {
        start(features);
        const std::string text(1024, 'x');
        ASSERT_TRUE(world.memory->write(base::Gpa{data}, std::as_bytes(std::span{text})));
        EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_OUT, 8, {{data, 512}, {data + 512, 512}}), 0u);
        EXPECT_EQ(written, 1u);
        EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_FLUSH, 0, {}), 0u);
        EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, 9, {{data + 0x2000, 1024, true}}), 0u);
        EXPECT_EQ(written, 1025u);
        const auto got = world.memory->span(base::Gpa{data + 0x2000}, 1024);
        EXPECT_EQ(got[0], std::byte{'x'});
        EXPECT_EQ(got[511], std::byte{'x'});
        EXPECT_EQ(got[512], std::byte{0});
        EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_GET_ID, 0, {{data, 20, true}}), 0u);
        EXPECT_EQ(std::memcmp(world.memory->span(base::Gpa{data}, 9).data(), "serial-1", 9), 0);
    }
}

TEST_F(BlockTest, WhatCannotBeGivesAnError)
{
    start();
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, size / 512, {{data, 512, true}}), 1u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, size / 512 - 1, {{data, 1024, true}}), 1u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, ~std::uint64_t{0}, {{data, 512, true}}), 1u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, std::uint64_t{1} << 55, {{data, 512, true}}), 1u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, 0, {{data, 100, true}}), 1u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_OUT, 0, {}), 1u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_GET_ID, 0, {{data, 10, true}}), 1u);
    EXPECT_EQ(request(static_cast<BlockType>(77), 0, {}), 2u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_DISCARD, 0, {{data, 8}}), 1u);
    ASSERT_TRUE(world.memory->write_value(base::Gpa{data}, BlockRange{0, 8, 1}));
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_DISCARD, 0, {{data, 16}}), 2u);
    ASSERT_TRUE(world.memory->write_value(base::Gpa{data}, BlockRange{0, 0xffffffff, 0}));
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_WRITE_ZEROES, 0, {{data, 16}}), 1u);
    EXPECT_EQ(driver->in(0x14, 1), 15u);
}

TEST_F(BlockTest, ReadOnlyRefusesWrites)
{
    read_only = true;
    start();
    EXPECT_NE(driver->offered() & VIRTIO_BLK_F_RO, 0u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_OUT, 0, {{data, 512}}), 1u);
}

TEST_F(BlockTest, NoRoomForTheStatusNeedsAReset)
{
    start();
    ring->add({{header, 16}});
    driver->ring(0);
    EXPECT_NE(driver->in(0x14, 1) & status::DEVICE_NEEDS_RESET, 0u);
    base::StateWriter writer;
    driver->transport.save(writer);  // nothing is in flight all the same
}

TEST_F(BlockTest, ResetWaitsForWhatIsUnderWay)
{
    start();
    for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(world.memory->write_value(base::Gpa{header}, BlockHeader{0, 0, 0}));
        ring->add({{header, 16}, {data, 4096, true}, {status_byte, 1, true}});
        driver->ring(0);
        driver->out(0x14, 0, 1);
        start();
    }
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_IN, 0, {{data, 512, true}}), 0u);
}

TEST_F(BlockTest, WriteCacheIsTheDriversChoice)
{
    start(VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH);
    EXPECT_EQ(driver->in(0x2000, 8), size / 512);
    EXPECT_EQ(driver->in(0x2020, 1), 1u);
    driver->out(0x2020, 0, 1);
    EXPECT_EQ(driver->in(0x2020, 1), 0u);
    driver->out(0x2020, 2, 1);
    EXPECT_EQ(driver->in(0x2020, 1), 0u);
    EXPECT_EQ(request(BlockType::VIRTIO_BLK_T_OUT, 0, {{data, 512}}), 0u);
    driver->out(0x2000, 0, 8);  // not writable
    EXPECT_EQ(driver->in(0x2000, 8), size / 512);
}

struct ConsoleTest : testing::Test {
    VirtioWorld world;
    FakeConsole* hvc = nullptr;
    FakeConsole* port = nullptr;
    std::unique_ptr<PciDriver> driver;
    std::map<unsigned, std::unique_ptr<TestDriver>> rings;

    ConsoleTest()
    {
        const auto make = [this](base::EventLoop&) -> base::Result<std::unique_ptr<Device>> {
            auto first = std::make_unique<FakeConsole>(), second = std::make_unique<FakeConsole>();
            hvc = first.get();
            port = second.get();
            std::vector<Console::Port> ports(2);
            ports[0] = {"", true, std::move(first)};
            ports[1] = {"agent", false, std::move(second)};
            return std::unique_ptr<Device>{std::make_unique<Console>(std::move(ports))};
        };
        driver = std::make_unique<PciDriver>(world, world.frontend(make));
        EXPECT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1 | VIRTIO_CONSOLE_F_MULTIPORT |
                                      VIRTIO_CONSOLE_F_EMERG_WRITE));
        for (unsigned i = 0; i < 6; ++i) {
            rings[i] = std::make_unique<TestDriver>(*world.memory, 8, 0, 0x10000 * (i + 1));
            driver->set_queue(i, rings[i]->address(), VIRTIO_MSI_NO_VECTOR);
        }
        driver->ready();
    }
    void control(std::uint32_t id, ConsoleEvent event, std::uint16_t value)
    {
        EXPECT_TRUE(world.memory->write_value(base::Gpa{header}, ConsoleControl{id, event, value}));
        rings[3]->add({{header, 8}});
        driver->ring(3);
        EXPECT_TRUE(rings[3]->take());
    }
    // The next message from the device, as text: "event id value name".
    std::string message()
    {
        rings[2]->add({{data, 64, true}});
        driver->ring(2);
        const auto used = rings[2]->take();
        if (!used) return "nothing";
        ConsoleControl control{};
        EXPECT_TRUE(world.memory->read_value(base::Gpa{data}, control));
        std::string text = std::to_string(static_cast<int>(control.event)) + " " +
                           std::to_string(control.id) + " " + std::to_string(control.value);
        if (used->written > 8) text += " " + text_at(data + 8, used->written - 8);
        return text;
    }
    std::string text_at(std::uint64_t at, std::uint64_t size)
    {
        const auto bytes = world.memory->span(base::Gpa{at}, size);
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
};

TEST_F(ConsoleTest, PortsAnnounceThemselves)
{
    using enum ConsoleEvent;
    control(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    EXPECT_EQ(message(), "1 0 1");
    EXPECT_EQ(message(), "1 1 1");
    control(1, VIRTIO_CONSOLE_PORT_READY, 1);
    EXPECT_EQ(message(), "7 1 1 agent");
    EXPECT_EQ(message(), "6 1 1");
    control(0, VIRTIO_CONSOLE_PORT_READY, 1);
    EXPECT_EQ(message(), "4 0 1");
    EXPECT_EQ(message(), "6 0 1");
    control(99, VIRTIO_CONSOLE_PORT_READY, 1);
    control(1, static_cast<ConsoleEvent>(99), 1);
}

TEST_F(ConsoleTest, InputWaitsForAnOpenPortAndABuffer)
{
    port->type("hello");
    rings[4]->add({{data, 3, true}});
    driver->ring(4);
    EXPECT_FALSE(rings[4]->take());
    control(1, ConsoleEvent::VIRTIO_CONSOLE_PORT_OPEN, 1);
    const auto used = rings[4]->take();
    ASSERT_TRUE(used);
    EXPECT_EQ(text_at(data, used->written), "hel");
    rings[4]->add({{data, 30, true}});
    driver->ring(4);
    EXPECT_EQ(text_at(data, rings[4]->take()->written), "lo");
}

// The message that opens the port is given back as itself after what it made the device do.
TEST_F(ConsoleTest, OpeningAPortFillsAllBuffersThatWait)
{
    port->type("hello");
    for (std::uint64_t i = 0; i < 2; ++i) rings[4]->add({{data + 3 * i, 3, true}});
    driver->ring(4);
    control(1, ConsoleEvent::VIRTIO_CONSOLE_PORT_OPEN, 1);
    EXPECT_EQ(rings[4]->take()->written, 3u);
    EXPECT_EQ(rings[4]->take()->written, 2u);
    EXPECT_EQ(text_at(data, 5), "hello");
}

TEST_F(ConsoleTest, OutputWaitsForRoomAcrossASavedState)
{
    const std::string text = "0123456789";
    ASSERT_TRUE(world.memory->write(base::Gpa{data}, std::as_bytes(std::span{text})));
    hvc->room = 4;
    rings[1]->add({{data, 2}, {data + 2, 8}});
    driver->ring(1);
    EXPECT_EQ(hvc->output, "0123");
    EXPECT_FALSE(rings[1]->take());
    base::StateWriter writer;
    driver->transport.save(writer);
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(driver->transport.load(*reader));
    hvc->room = 100;
    hvc->on_writable();
    EXPECT_EQ(hvc->output, text);
    EXPECT_TRUE(rings[1]->take());
}

TEST_F(ConsoleTest, EmergencyWriteNeedsNoQueue)
{
    driver->out(0x2008, 'E', 4);
    EXPECT_EQ(hvc->output, "E");
}

struct BalloonTest : testing::Test {
    VirtioWorld world;
    Balloon* balloon = nullptr;
    std::unique_ptr<PciDriver> driver;
    std::map<unsigned, std::unique_ptr<TestDriver>> rings;

    BalloonTest()
    {
        const auto make = [this](base::EventLoop& loop) -> base::Result<std::unique_ptr<Device>> {
            auto made = TRY(Balloon::create({16, true, true}, loop));
            balloon = made.get();
            return std::unique_ptr<Device>{std::move(made)};
        };
        driver = std::make_unique<PciDriver>(world, world.frontend(make));
        EXPECT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1 | 0x26));
        for (unsigned i = 0; i < 4; ++i) {
            rings[i] = std::make_unique<TestDriver>(*world.memory, 8, 0, 0x10000 * (i + 1));
            driver->set_queue(i, rings[i]->address(), VIRTIO_MSI_NO_VECTOR);
        }
        driver->ready();
    }
    std::uint64_t counter(std::string_view name) const
    {
        base::CounterList list;
        balloon->counters(list, "b");
        for (const auto& [key, value] : list.values()) {
            if (key == "b." + std::string{name}) return value;
        }
        return ~std::uint64_t{0};
    }
};

TEST_F(BalloonTest, InflatedPagesAreGone)
{
    EXPECT_EQ(driver->in(0x2000, 4), 16u);
    for (std::uint64_t page = 0xa0; page < 0xa8; ++page) {
        ASSERT_TRUE(world.memory->write_value(base::Gpa{page << 12}, std::uint32_t{0x12345678}));
    }
    // Up, down, alone, outside of memory.
    const std::array<std::uint32_t, 7> pages{0xa0, 0xa1, 0xa5, 0xa4, 0xa7, 0x100, 0xffffffff};
    ASSERT_TRUE(world.memory->write(base::Gpa{data}, std::as_bytes(std::span{pages})));
    rings[0]->add({{data, sizeof pages}});
    driver->ring(0);
    EXPECT_TRUE(rings[0]->take());
    for (std::uint64_t page = 0xa0; page < 0xa8; ++page) {
        std::uint32_t value = 0;
        ASSERT_TRUE(world.memory->read_value(base::Gpa{page << 12}, value));
        const bool kept = page == 0xa2 || page == 0xa3 || page == 0xa6;
        EXPECT_EQ(value, kept ? 0x12345678u : 0u) << page;
    }
    EXPECT_EQ(counter("released_pages"), 5u);
    EXPECT_EQ(counter("refused_pages"), 2u);
    driver->out(0x2004, 5, 4);
    EXPECT_EQ(driver->in(0x2004, 4), 5u);
}

TEST_F(BalloonTest, NewTargetIsAChangeOfConfiguration)
{
    const auto generation = driver->in(0x15, 1);
    balloon->set_target(99);
    EXPECT_EQ(driver->in(0x2000, 4), 99u);
    EXPECT_NE(driver->in(0x15, 1), generation);
    EXPECT_EQ(driver->in(0x1000, 1), 2u);
}

TEST_F(BalloonTest, StatisticsStayInTheirQueue)
{
    const BalloonStatistic statistics[] = {{4, 123456}, {99, 1}, {5, 654321}};
    ASSERT_TRUE(world.memory->write(base::Gpa{data}, std::as_bytes(std::span{statistics})));
    rings[2]->add({{data, sizeof statistics}});
    driver->ring(2);
    EXPECT_EQ(counter("guest_free_memory"), 123456u);
    EXPECT_EQ(counter("guest_total_memory"), 654321u);
    EXPECT_FALSE(rings[2]->take());
    base::StateWriter writer;
    driver->transport.save(writer);
}

TEST_F(BalloonTest, ReportedPagesAreGone)
{
    for (const std::uint64_t at : {0xa0ffcull, 0xa1000ull, 0xa2000ull}) {
        ASSERT_TRUE(world.memory->write_value(base::Gpa{at}, std::uint32_t{7}));
    }
    rings[3]->add({{0xa0800, 0x2000, true}});  // one whole page of it
    driver->ring(3);
    EXPECT_TRUE(rings[3]->take());
    std::uint32_t before = 0, page = 1, behind = 0;
    ASSERT_TRUE(world.memory->read_value(base::Gpa{0xa0ffc}, before));
    ASSERT_TRUE(world.memory->read_value(base::Gpa{0xa1000}, page));
    ASSERT_TRUE(world.memory->read_value(base::Gpa{0xa2000}, behind));
    EXPECT_EQ(before, 7u);
    EXPECT_EQ(page, 0u);
    EXPECT_EQ(behind, 7u);
}

}  // namespace
}  // namespace doppel::devices::virtio
