#include "backends/net/stream.h"

#include <sys/socket.h>

#include <random>

#include "net_fixture.h"

namespace doppel::backends {
namespace {

Bytes on_the_wire(const Bytes& frame)
{
    const auto length = stream_length(frame.size());
    Bytes bytes{length.begin(), length.end()};
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    return bytes;
}

TEST(NetStreamDecoder, FramesInPieces)
{
    std::mt19937 random{1};
    Bytes stream;
    std::vector<Bytes> wanted, found;
    for (unsigned i = 0; i < 60; ++i) {
        wanted.push_back(frame_of(1 + random() % (i % 7 == 0 ? most_frame_bytes : 2000), i));
        const Bytes bytes = on_the_wire(wanted.back());
        stream.insert(stream.end(), bytes.begin(), bytes.end());
    }
    StreamDecoder decoder;
    std::size_t at = 0;
    while (at < stream.size()) {
        const auto room = decoder.room();
        ASSERT_FALSE(room.empty());
        const std::size_t part = std::min({room.size(), stream.size() - at,
                                           std::size_t{1} + random() % 100'000});
        std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(at), part, room.begin());
        decoder.added(part);
        at += part;
        bool again = true;
        while (auto frame = decoder.next()) {
            if (std::exchange(again, false)) {
                decoder.put_back(*frame);
                continue;
            }
            found.emplace_back(frame->begin(), frame->end());
        }
    }
    EXPECT_FALSE(decoder.broken());
    EXPECT_EQ(found, wanted);
}

TEST(NetStreamDecoder, LengthsThatCannotBe)
{
    for (const std::size_t length : {std::size_t{0}, most_frame_bytes + 1, std::size_t{0xffffffff}}) {
        StreamDecoder decoder;
        const auto bytes = stream_length(length);
        std::copy(bytes.begin(), bytes.end(), decoder.room().begin());
        decoder.added(bytes.size());
        EXPECT_FALSE(decoder.next());
        EXPECT_TRUE(decoder.broken()) << length;
        decoder.reset();
        EXPECT_FALSE(decoder.broken());
    }
}

class NetStream : public NetTest {
protected:
    std::unique_ptr<NetBackend> open(const StreamOptions& options, Receiver& receiver)
    {
        auto made = StreamNet::create(*loop, options, 1500);
        EXPECT_TRUE(made) << made.error().text();
        (*made)->attach(receiver);
        return std::move(made).value();
    }
    static Handed send(NetBackend& net, std::size_t size, unsigned fill = 1)
    {
        Bytes bytes = frame_of(size, fill);
        Frame frame{{}, bytes};
        return net.send(0, frame);
    }
    base::Fd connect() { return connect_unix(path("link"), "test").value(); }
    static void write(const base::Fd& fd, const Bytes& bytes)
    {
        ASSERT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(bytes.size()));
    }

    Receiver one, two;
};

TEST_F(NetStream, TwoMachines)
{
    const auto server = open({path("link"), true, {}}, one);
    EXPECT_FALSE(server->link_up());
    const auto client = open({path("link"), false, {}}, two);
    EXPECT_TRUE(client->link_up());
    ASSERT_TRUE(run_until([&] { return server->link_up(); }));
    EXPECT_EQ(one.links, std::vector<bool>{true});
    for (unsigned i = 0; i < 100; ++i) {
        EXPECT_EQ(send(*server, 60 + i, i), Handed::yes);
        EXPECT_EQ(send(*client, 1514, i), Handed::yes);
    }
    server->flush(0);
    client->flush(0);
    ASSERT_TRUE(run_until([&] { return one.frames.size() == 100 && two.frames.size() == 100; }));
    EXPECT_EQ(two.frames[99], frame_of(159, 99));
    EXPECT_EQ(one.frames[50], frame_of(1514, 50));
    EXPECT_EQ(one.headers[0], OffloadHeader{});
}

TEST_F(NetStream, AReceiverWithoutRoom)
{
    const auto server = open({path("link"), true, {}}, one);
    const base::Fd peer = connect();
    one.room = 1;
    for (unsigned i = 0; i < 3; ++i) write(peer, on_the_wire(frame_of(100, i)));
    ASSERT_TRUE(run_until([&] { return one.refused == 1; }));
    EXPECT_EQ(one.frames.size(), 1u);
    one.room = 2;
    server->resume(0);
    ASSERT_TRUE(run_until([&] { return one.frames.size() == 3; }));
    EXPECT_EQ(one.frames[2], frame_of(100, 2));
}

TEST_F(NetStream, APeerThatDoesNotRead)
{
    const auto server = open({path("link"), true, {}}, one);
    const base::Fd peer = connect();
    ASSERT_TRUE(run_until([&] { return server->link_up(); }));
    std::size_t sent = 0;
    while (sent < 10'000 && send(*server, 1514) == Handed::yes) {
        ++sent;
        if (sent % 64 == 0) server->flush(0);
    }
    ASSERT_LT(sent, 10'000u);
    server->flush(0);
    EXPECT_EQ(one.writables, 0u);
    Bytes buffer(1 << 20);
    std::size_t got = 0;
    ASSERT_TRUE(run_until([&] {
        const ssize_t part = ::recv(peer.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (part > 0) got += static_cast<std::size_t>(part);
        return got == sent * 1518;
    }));
    EXPECT_EQ(one.writables, 1u);
}

TEST_F(NetStream, NonsenseEndsTheLinkAndTheNextPeerFindsItWhole)
{
    const auto server = open({path("link"), true, {}}, one);
    for (const Bytes& nonsense : {frame_of(4, 0xff), frame_of(4, 0), frame_of(70'000, 0x10)}) {
        const base::Fd peer = connect();
        const std::size_t links = one.links.size();
        ASSERT_TRUE(run_until([&] { return server->link_up(); }));
        write(peer, nonsense);
        ASSERT_TRUE(run_until([&] { return one.links.size() == links + 2; }));
        EXPECT_FALSE(server->link_up());
    }
    const base::Fd peer = connect();
    write(peer, on_the_wire(frame_of(13)));  // no Ethernet frame: dropped
    write(peer, on_the_wire(frame_of(14)));
    ASSERT_TRUE(run_until([&] { return !one.frames.empty(); }));
    EXPECT_EQ(one.frames.size(), 1u);
    EXPECT_EQ(one.frames[0].size(), 14u);
    // Frames to nobody vanish.
    EXPECT_TRUE(server->link_up());
}

TEST_F(NetStream, OneFrameCutInTheMiddle)
{
    const auto server = open({path("link"), true, {}}, one);
    {
        const base::Fd peer = connect();
        Bytes half = on_the_wire(frame_of(100));
        half.resize(50);
        write(peer, half);
        ASSERT_TRUE(run_until([&] { return server->link_up(); }));
    }
    ASSERT_TRUE(run_until([&] { return !server->link_up(); }));
    EXPECT_EQ(send(*server, 60), Handed::yes);
    const base::Fd peer = connect();
    write(peer, on_the_wire(frame_of(77)));
    ASSERT_TRUE(run_until([&] { return !one.frames.empty(); }));
    EXPECT_EQ(one.frames[0].size(), 77u);
}

TEST_F(NetStream, ConnectingAgain)
{
    const auto client = open({path("link"), false, 1u}, one);
    EXPECT_FALSE(client->link_up());
    {
        const auto server = open({path("link"), true, {}}, two);
        ASSERT_TRUE(run_until([&] { return client->link_up(); }));
    }
    ASSERT_TRUE(run_until([&] { return !client->link_up(); }));
    const auto server = open({path("link"), true, {}}, two);
    ASSERT_TRUE(run_until([&] { return client->link_up(); }));
    EXPECT_EQ(one.links, (std::vector<bool>{true, false, true}));
}

TEST_F(NetStream, NobodyThere)
{
    const auto made = StreamNet::create(*loop, {path("nobody"), false, {}}, 1500);
    ASSERT_FALSE(made);
    EXPECT_NE(made.error().text().find("reconnect=1"), std::string::npos);
}

}  // namespace
}  // namespace doppel::backends
