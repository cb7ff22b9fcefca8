#include <fstream>

#include "backends/net/pcap.h"
#include "backends/net/rate_limit.h"
#include "net_fixture.h"
#include "base/bytes.h"

namespace doppel::backends {
namespace {

class NetFilters : public NetTest {
protected:
    NetFilters() : owned(std::make_unique<Wire>()), wire(owned.get()) {}
    Handed send(NetBackend& net, std::size_t size, unsigned fill = 1)
    {
        Bytes bytes = frame_of(size, fill);
        Frame frame{{}, bytes};
        return net.send(0, frame);
    }
    Handed arrive(std::size_t size, unsigned fill = 2)
    {
        Bytes bytes = frame_of(size, fill);
        Frame frame{{}, bytes};
        return wire->receiver->receive(0, frame);
    }

    std::unique_ptr<Wire> owned;
    Wire* wire;
    Receiver receiver;
};

TEST_F(NetFilters, RatesHoldFramesBack)
{
    std::uint64_t now = 1'000'000'000;
    const auto net = RateLimit::create(*loop, std::move(owned), {10'000, 0, 1000, 0},
                                       [&now] { return now; }).value();
    net->attach(receiver);
    EXPECT_EQ(send(*net, 1000), Handed::yes);
    EXPECT_EQ(send(*net, 500), Handed::yes);
    EXPECT_EQ(send(*net, 500), Handed::wait);
    EXPECT_EQ(wire->frames.size(), 2u);
    // The other direction has a limit of its own.
    EXPECT_EQ(arrive(1000), Handed::yes);
    EXPECT_EQ(arrive(1000), Handed::yes);
    EXPECT_EQ(arrive(14), Handed::wait);
    EXPECT_EQ(receiver.frames.size(), 2u);
    ASSERT_TRUE(run_until([&] { return receiver.writables == 1 && wire->resumes == 1; }));
    now += 50'000'000;
    EXPECT_EQ(send(*net, 500), Handed::yes);
    EXPECT_EQ(arrive(14), Handed::wait);
    now += 50'000'000;
    EXPECT_EQ(arrive(14), Handed::yes);
}

TEST_F(NetFilters, RatesOfFramesAndFullBackends)
{
    std::uint64_t now = 7;
    const auto net = RateLimit::create(*loop, std::move(owned), {0, 100, 0, 2},
                                       [&now] { return now; }).value();
    net->attach(receiver);
    wire->full = true;
    for (int i = 0; i < 10; ++i) EXPECT_EQ(send(*net, 60), Handed::wait);
    wire->full = false;
    EXPECT_EQ(send(*net, 60), Handed::yes);
    EXPECT_EQ(send(*net, 60), Handed::yes);
    EXPECT_EQ(send(*net, 60), Handed::yes);
    EXPECT_EQ(send(*net, 60), Handed::wait);
    now += 10'000'000;
    EXPECT_EQ(send(*net, 60), Handed::yes);
}

TEST_F(NetFilters, PcapHasWhatPassed)
{
    {
        auto made = Pcap::create(std::move(owned), path("net.pcap"));
        ASSERT_TRUE(made);
        const auto net = std::move(made).value();
        net->attach(receiver);
        EXPECT_EQ(send(*net, 60), Handed::yes);
        wire->full = true;
        EXPECT_EQ(send(*net, 61), Handed::wait);
        wire->full = false;
        receiver.room = 1;
        EXPECT_EQ(arrive(70), Handed::yes);
        EXPECT_EQ(arrive(71), Handed::wait);
        net->flush(0);
        EXPECT_EQ(wire->flushes, 1u);
        EXPECT_EQ(std::filesystem::file_size(path("net.pcap")), 24u + 16 + 60 + 16 + 70);
        EXPECT_EQ(send(*net, 62), Handed::yes);
    }
    std::ifstream file{path("net.pcap"), std::ios::binary};
    const std::string text{std::istreambuf_iterator<char>{file}, {}};
    base::ByteReader reader{std::as_bytes(std::span{text})};
    EXPECT_EQ(reader.read<std::uint32_t>(), 0xa1b23c4du);
    ASSERT_TRUE(reader.seek(20));
    EXPECT_EQ(reader.read<std::uint32_t>(), 1u);
    for (const std::size_t size : {60u, 70u, 62u}) {
        EXPECT_GT(reader.read<std::uint32_t>().value(), 1'600'000'000u);
        EXPECT_LT(reader.read<std::uint32_t>().value(), 1'000'000'000u);
        EXPECT_EQ(reader.read<std::uint32_t>(), size);
        EXPECT_EQ(reader.read<std::uint32_t>(), size);
        const auto bytes = reader.read_bytes(size).value();
        EXPECT_EQ(bytes.front(), size == 70 ? std::byte{2} : std::byte{1});
    }
    EXPECT_EQ(reader.remaining(), 0u);
}

TEST_F(NetFilters, PcapThatCannotBeWritten)
{
    const auto made = Pcap::create(std::move(owned), path("no/such/folder"));
    ASSERT_FALSE(made);
    EXPECT_NE(made.error().text().find("pcap="), std::string::npos);
}

}  // namespace
}  // namespace doppel::backends
