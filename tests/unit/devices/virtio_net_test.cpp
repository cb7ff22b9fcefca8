// The network card through the whole of its transport, over a backend that keeps frames.
#include <gtest/gtest.h>

#include "devices/virtio/net/net.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

using backends::Frame;
using backends::Handed;
using backends::OffloadHeader;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t buffers_at = 0x80000, command_at = 0xf0000;

struct FakeWire final : backends::NetBackend {
    struct History {
        backends::NetProperties properties;
        backends::NetReceiver* receiver = nullptr;
        bool full = false;
        std::vector<std::pair<OffloadHeader, Bytes>> sent;
        backends::Offloads offloads;
        unsigned queues = 0, flushes = 0, resumes = 0;
    };
    explicit FakeWire(History& to) : history(to) {}
    [[nodiscard]] backends::NetProperties properties() const override { return history.properties; }
    void attach(backends::NetReceiver& receiver) override { history.receiver = &receiver; }
    Handed send(unsigned, Frame& frame) noexcept override
    {
        if (history.full) return Handed::wait;
        history.sent.emplace_back(frame.header, Bytes{frame.bytes.begin(), frame.bytes.end()});
        return Handed::yes;
    }
    void flush(unsigned) noexcept override { ++history.flushes; }
    void resume(unsigned) noexcept override { ++history.resumes; }
    void set_offloads(const backends::Offloads& to) noexcept override { history.offloads = to; }
    void set_queues(unsigned count) noexcept override { history.queues = count; }
    void counters(base::CounterList&, std::string_view) const override {}
    History& history;
};

struct NetTest : testing::TestWithParam<Features> {
    static constexpr std::array<std::uint8_t, 6> mac{0x52, 0x54, 0, 1, 2, 3};
    VirtioWorld world;
    FakeWire::History wire;
    std::unique_ptr<PciDriver> driver;
    std::unique_ptr<TestDriver> receive, transmit, control;

    NetTest()
    {
        wire.properties = {{true, true, true, true}, {true, true, true, true}, 1500, 2};
    }
    DeviceFactory factory()
    {
        return [this](base::EventLoop&) -> base::Result<std::unique_ptr<Device>> {
            return std::unique_ptr<Device>{
                std::make_unique<Net>(std::make_unique<FakeWire>(wire), Net::Options{mac})};
        };
    }
    void start(Features wanted = ~Features{0})
    {
        driver.reset();
        world.memory->clear();
        driver = std::make_unique<PciDriver>(world, world.frontend(factory()));
        wanted &= driver->offered() & ~VIRTIO_F_RING_PACKED;
        wanted |= GetParam() | VIRTIO_F_VERSION_1;
        ASSERT_TRUE(driver->negotiate(wanted));
        receive = std::make_unique<TestDriver>(*world.memory, 16, wanted, 0x10000, 0x70000);
        transmit = std::make_unique<TestDriver>(*world.memory, 16, wanted, 0x20000, 0x72000);
        control = std::make_unique<TestDriver>(*world.memory, 16, wanted, 0x30000, 0x74000);
        driver->set_queue(0, receive->address(), 0);
        driver->set_queue(1, transmit->address(), 0);
        driver->set_queue((wanted & VIRTIO_NET_F_MQ) != 0 ? 4 : 2, control->address(), 0);
        driver->ready();
    }
    void put(std::uint64_t at, std::span<const std::byte> bytes)
    {
        ASSERT_TRUE(world.memory->write(base::Gpa{at}, bytes));
    }
    Bytes at(std::uint64_t address, std::size_t size)
    {
        const auto span = world.memory->span(base::Gpa{address}, size);
        return {span.begin(), span.end()};
    }
    void send(const OffloadHeader& header, std::size_t size, unsigned fill = 7)
    {
        Bytes bytes(12 + size, static_cast<std::byte>(fill));
        base::store_le(bytes.data(), header);
        put(buffers_at, bytes);
        transmit->add({{buffers_at, 12}, {buffers_at + 12, static_cast<std::uint32_t>(size)}});
        driver->ring(1);
    }
    Handed arrive(std::size_t size, const OffloadHeader& header = {})
    {
        Bytes bytes(size);
        for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31);
        Frame frame{header, bytes};
        const Handed handed = wire.receiver->receive(0, frame);
        wire.receiver->received(0);
        return handed;
    }
    void give(std::uint64_t address, std::uint32_t size)
    {
        receive->add({{address, size, true}});
    }
    // The answer; 0xee: none came.
    unsigned command(NetControl code, const Bytes& data)
    {
        Bytes bytes(2);
        base::store_le(bytes.data(), static_cast<std::uint16_t>(code));
        bytes.insert(bytes.end(), data.begin(), data.end());
        put(command_at, bytes);
        put(command_at + 0x1000, std::array{std::byte{0xee}});
        control->add({{command_at, static_cast<std::uint32_t>(bytes.size())},
                      {command_at + 0x1000, 1, true}});
        driver->ring(wire.properties.queues > 1 ? 4 : 2);
        EXPECT_TRUE(control->take());
        return std::to_integer<unsigned>(at(command_at + 0x1000, 1)[0]);
    }
    [[nodiscard]] bool needs_reset() { return (driver->in(0x14, 1) & 64) != 0; }
};

TEST_P(NetTest, OffersWhatTheBackendCan)
{
    start();
    EXPECT_NE(driver->offered() & VIRTIO_NET_F_HOST_TSO6, 0u);
    EXPECT_NE(driver->offered() & VIRTIO_NET_F_MQ, 0u);
    EXPECT_EQ(driver->in(0x2000, 4), 0x00005452u | 1u << 24);
    EXPECT_EQ(driver->in(0x2006, 2), VIRTIO_NET_S_LINK_UP);
    EXPECT_EQ(driver->in(0x200a, 2), 1500u);
    EXPECT_EQ(wire.offloads, (backends::Offloads{true, true, true, true}));
    wire.properties = {{}, {}, 9000, 1};
    start();
    EXPECT_EQ(driver->offered() & (VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM |
                                   VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_MQ),
              0u);
    EXPECT_EQ(wire.offloads, backends::Offloads{});
    driver->out(0x14, 0, 1);
}

TEST_P(NetTest, SendsFrames)
{
    start();
    send({}, 60);
    ASSERT_EQ(wire.sent.size(), 1u);
    EXPECT_EQ(wire.sent[0].second, Bytes(60, std::byte{7}));
    EXPECT_EQ(transmit->take()->written, 0u);
    EXPECT_GE(wire.flushes, 1u);
    const OffloadHeader large{1, 1, 54, 1448, 34, 16};
    send(large, 0x4000);
    ASSERT_EQ(wire.sent.size(), 2u);
    EXPECT_EQ(wire.sent[1].first, large);
}

TEST_P(NetTest, DropsFramesThatCannotBe)
{
    start();
    send({}, 13);
    send({1, 0, 0, 0, 34, 30}, 60);
    send({1, 2, 0, 100, 34, 16}, 60);
    send({0, 1, 0, 100, 34, 16}, 60);
    send({1, 1, 0, 0, 34, 16}, 60);
    transmit->add({{buffers_at, 5}});
    driver->ring(1);
    transmit->add({{buffers_at, 0x10000}, {buffers_at, 0x10000}});
    driver->ring(1);
    EXPECT_TRUE(wire.sent.empty());
    for (int i = 0; i < 7; ++i) EXPECT_TRUE(transmit->take()) << i;
    EXPECT_FALSE(needs_reset());
    start(0);  // nothing was negotiated
    send({1, 0, 0, 0, 34, 16}, 60);
    EXPECT_TRUE(wire.sent.empty());
}

TEST_P(NetTest, AFullBackendKeepsFramesInTheRing)
{
    start();
    wire.full = true;
    send({}, 60);
    send({}, 60);
    EXPECT_FALSE(transmit->take());
    wire.full = false;
    wire.receiver->writable(0);
    driver->pump();
    EXPECT_EQ(wire.sent.size(), 2u);
    EXPECT_TRUE(transmit->take());
    EXPECT_TRUE(transmit->take());
}

TEST_P(NetTest, ReceivesIntoOneBufferOrSeveral)
{
    start();
    EXPECT_EQ(arrive(100), Handed::wait);
    give(buffers_at, 200);
    EXPECT_EQ(arrive(100, {1, 0, 0, 0, 34, 16}), Handed::yes);
    const auto used = receive->take();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, 112u);
    const Bytes got = at(buffers_at, 112);
    EXPECT_EQ(base::load_le<OffloadHeader>(got.data()), (OffloadHeader{1, 0, 0, 0, 34, 16}));
    EXPECT_EQ(base::load_le<std::uint16_t>(got.data() + 10), 1);
    EXPECT_EQ(got[12 + 99], static_cast<std::byte>(99 * 31 & 0xff));

    give(buffers_at, 100);
    give(buffers_at + 0x1000, 100);
    EXPECT_EQ(arrive(250), Handed::wait);
    EXPECT_FALSE(receive->take());
    give(buffers_at + 0x2000, 100);
    EXPECT_EQ(arrive(250), Handed::yes);
    std::vector<std::uint32_t> written;
    while (const auto part = receive->take()) written.push_back(part->written);
    EXPECT_EQ(written, (std::vector<std::uint32_t>{100, 100, 62}));
    EXPECT_EQ(base::load_le<std::uint16_t>(at(buffers_at, 12).data() + 10), 3);
    EXPECT_EQ(at(buffers_at + 0x2000, 62)[61], static_cast<std::byte>(249 * 31 & 0xff));
}

TEST_P(NetTest, ManyFramesAroundTheRing)
{
    start();
    for (unsigned i = 0; i < 200; ++i) {
        const unsigned pieces = 1 + i % 5;
        for (unsigned j = 0; j < pieces; ++j) give(buffers_at + 0x1000 * j, 64);
        ASSERT_EQ(arrive(64 * pieces - 12), Handed::yes);
        for (unsigned j = 0; j < pieces; ++j) ASSERT_EQ(receive->take()->written, 64u);
        ASSERT_FALSE(receive->take());
    }
}

TEST_P(NetTest, BuffersThatNeverSufficeDoNotStopTheLink)
{
    start();
    give(buffers_at, 64);
    give(buffers_at + 0x1000, 64);
    EXPECT_EQ(arrive(1500), Handed::wait);
    EXPECT_EQ(arrive(1500), Handed::yes);  // dropped
    EXPECT_EQ(arrive(60), Handed::yes);
    EXPECT_TRUE(receive->take());
}

TEST_P(NetTest, BuffersWithoutMerging)
{
    start(~VIRTIO_NET_F_MRG_RXBUF);
    give(buffers_at, 100);
    EXPECT_EQ(arrive(100), Handed::yes);  // does not fit: dropped, and the buffer stays
    EXPECT_FALSE(receive->take());
    EXPECT_EQ(arrive(88), Handed::yes);
    EXPECT_EQ(receive->take()->written, 100u);
}

TEST_P(NetTest, ABufferTooSmallForTheHeaderBreaksTheQueue)
{
    start();
    give(buffers_at, 11);
    EXPECT_EQ(arrive(100), Handed::wait);
    EXPECT_TRUE(needs_reset());
    driver->out(0x14, 0, 1);
    EXPECT_EQ(arrive(100), Handed::yes);  // nobody there
}

TEST_P(NetTest, Commands)
{
    start();
    const Bytes address{std::byte{2}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0},
                        std::byte{9}};
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_RX_PROMISC, Bytes(1)), VIRTIO_NET_OK);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_RX_PROMISC, {}), VIRTIO_NET_ERR);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_MAC_ADDR_SET, address), VIRTIO_NET_OK);
    EXPECT_EQ(driver->in(0x2005, 1), 9u);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_MAC_ADDR_SET, Bytes(5)), VIRTIO_NET_ERR);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_MAC_TABLE_SET, Bytes(8)), VIRTIO_NET_OK);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_MAC_TABLE_SET, Bytes(8, std::byte{0xff})),
              VIRTIO_NET_ERR);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, {std::byte{2}, std::byte{0}}),
              VIRTIO_NET_OK);
    EXPECT_EQ(wire.queues, 2u);
    for (const unsigned pairs : {0u, 3u, 255u}) {
        EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
                          {static_cast<std::byte>(pairs), std::byte{0}}),
                  VIRTIO_NET_ERR);
    }
    Bytes offloads(8);
    offloads[0] = static_cast<std::byte>(VIRTIO_NET_F_GUEST_CSUM);
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, offloads), VIRTIO_NET_OK);
    EXPECT_EQ(wire.offloads, (backends::Offloads{true, false, false, false}));
    offloads[7] = std::byte{1};
    EXPECT_EQ(command(NetControl::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, offloads), VIRTIO_NET_ERR);
    EXPECT_EQ(command(static_cast<NetControl>(0x7777), {}), VIRTIO_NET_ERR);
    // A reset forgets it all.
    driver->out(0x14, 0, 1);
    EXPECT_EQ(wire.queues, 1u);
    EXPECT_EQ(driver->in(0x2005, 1), 3u);
}

TEST_P(NetTest, TheLinkGoesDown)
{
    start();
    const auto generation = driver->in(0x15, 1);
    wire.receiver->link_changed(false);
    EXPECT_EQ(driver->in(0x2006, 2), 0u);
    EXPECT_NE(driver->in(0x15, 1), generation);
}

TEST_P(NetTest, SavedStateAndHostileState)
{
    start();
    ASSERT_EQ(command(NetControl::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, {std::byte{2}, std::byte{0}}),
              VIRTIO_NET_OK);
    give(buffers_at, 200);
    base::StateWriter writer;
    {
        const auto guard = world.bus.lock();
        driver->transport.save(writer);
    }
    const auto stream = writer.finish();
    FakeWire::History before = wire;
    wire = {};
    wire.properties = before.properties;
    driver = std::make_unique<PciDriver>(world, world.frontend(factory()));
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(reader);
    {
        const auto guard = world.bus.lock();
        ASSERT_TRUE(driver->transport.load(*reader));
    }
    driver->pump();
    EXPECT_EQ(wire.queues, 2u);
    EXPECT_EQ(wire.offloads, before.offloads);
    EXPECT_EQ(arrive(100), Handed::yes);
    EXPECT_EQ(receive->take()->written, 112u);
    // The same state for a card with one pair.
    wire.properties.queues = 1;
    driver = std::make_unique<PciDriver>(world, world.frontend(factory()));
    const auto guard = world.bus.lock();
    EXPECT_FALSE(driver->transport.load(*reader));
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTest,
                         testing::Values(Features{0}, VIRTIO_F_RING_PACKED));

}  // namespace
}  // namespace doppel::devices::virtio
