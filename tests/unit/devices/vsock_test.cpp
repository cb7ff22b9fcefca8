// The socket device through its transport, over pairs of sockets.
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/vsock/vsock.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

using enum VsockOp;
constexpr std::uint64_t tx_at = 0x80000, rx_at = 0xa0000, rx_size = 4096;
constexpr std::uint32_t guest_port = 1000;

struct FakeHost final : backends::VsockBackend {
    explicit FakeHost(std::vector<base::Fd>& ends) : ends(ends) {}
    void attach(Accept to) override { accept = std::move(to); }
    base::Result<base::Fd> connect(std::uint32_t port) override
    {
        if (port != 77) return base::io_error("Nobody");
        return pair();
    }
    // One end; the other one goes to `ends`.
    base::Fd pair()
    {
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        ends.emplace_back(fds[1]);
        return base::Fd{fds[0]};
    }
    std::vector<base::Fd>& ends;
    Accept accept;
};

struct VsockTest : testing::Test {
    VirtioWorld world;
    std::vector<base::Fd> ends;  // the host's programs
    FakeHost* host = nullptr;
    std::unique_ptr<PciDriver> driver;
    std::vector<std::unique_ptr<TestDriver>> rings;
    struct Packet {
        VsockHeader header;
        std::string data;
    };

    VsockTest() { start(); }
    void start()
    {
        const auto make = [this](base::EventLoop& loop) -> base::Result<std::unique_ptr<Device>> {
            auto backend = std::make_unique<FakeHost>(ends);
            host = backend.get();
            return std::unique_ptr<Device>{std::make_unique<Vsock>(std::move(backend), 42, loop)};
        };
        driver = std::make_unique<PciDriver>(world, world.frontend(make));
        set_up();
    }
    void set_up()
    {
        EXPECT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1));
        world.memory->clear();
        rings.clear();
        waiting = false;
        for (unsigned i = 0; i < 3; ++i) {
            rings.push_back(
                std::make_unique<TestDriver>(*world.memory, 16, 0, 0x10000 * (i + 1), 0x70000));
            driver->set_queue(i, rings[i]->address(), VIRTIO_MSI_NO_VECTOR);
        }
        driver->ready();
    }
    static VsockHeader packet(VsockOp op, std::uint32_t host_port = 77)
    {
        return {42, host_cid, guest_port, host_port, 0, VIRTIO_VSOCK_TYPE_STREAM, op, 0, 65536, 0};
    }
    // Puts it into the tx queue; is it taken?
    bool send(VsockHeader header, std::string_view data = {}, std::uint32_t missing = 0)
    {
        header.len = static_cast<std::uint32_t>(data.size()) + missing;
        EXPECT_TRUE(world.memory->write_value(base::Gpa{tx_at}, header));
        EXPECT_TRUE(world.memory->write(base::Gpa{tx_at + sizeof header},
                                        std::as_bytes(std::span{data})));
        rings[1]->add({{tx_at, static_cast<std::uint32_t>(sizeof header + data.size())}});
        driver->ring(1);
        return rings[1]->take().has_value();
    }
    // The next packet for the guest, which gives one buffer for it.
    std::optional<Packet> receive(std::uint32_t size = rx_size)
    {
        if (!waiting) rings[0]->add({{rx_at, size, true}});
        driver->ring(0);
        const auto used = rings[0]->take();
        waiting = !used;
        if (!used) return std::nullopt;
        Packet packet{};
        EXPECT_GE(used->written, sizeof packet.header);
        EXPECT_TRUE(world.memory->read_value(base::Gpa{rx_at}, packet.header));
        EXPECT_EQ(used->written, sizeof packet.header + packet.header.len);
        packet.data.resize(packet.header.len);
        EXPECT_TRUE(world.memory->read(base::Gpa{rx_at + sizeof packet.header},
                                       std::as_writable_bytes(std::span{packet.data})));
        return packet;
    }
    void expect(VsockOp op, std::uint32_t flags = 0)
    {
        const auto packet = receive();
        ASSERT_TRUE(packet.has_value()) << "instead of " << static_cast<int>(op);
        EXPECT_EQ(packet->header.op, op);
        EXPECT_EQ(packet->header.flags, flags);
        EXPECT_EQ(packet->header.dst_cid, 42u);
    }
    void connect()
    {
        ASSERT_TRUE(send(packet(VIRTIO_VSOCK_OP_REQUEST)));
        expect(VIRTIO_VSOCK_OP_RESPONSE);
        ASSERT_FALSE(ends.empty());
    }
    // What the host's program finds; "-": nothing yet, "end": no more.
    std::string read_host()
    {
        driver->pump();
        std::string text(1 << 20, ' ');
        const ssize_t got = ::read(ends.back().get(), text.data(), text.size());
        if (got == 0) return "end";
        if (got < 0) return "-";
        text.resize(static_cast<std::size_t>(got));
        return text;
    }
    void write_host(std::string_view text)
    {
        ASSERT_EQ(::write(ends.back().get(), text.data(), text.size()),
                  static_cast<ssize_t>(text.size()));
        driver->pump();
    }
    [[nodiscard]] bool broken() { return (driver->in(0x14, 1) & status::DEVICE_NEEDS_RESET) != 0; }
    std::uint64_t counter(std::string_view name)
    {
        base::CounterList list;
        driver->transport.frontend().counters(list);
        for (const auto& [key, value] : list.values()) {
            if (key == "test." + std::string{name}) return value;
        }
        return ~std::uint64_t{0};
    }
    bool waiting = false;  // a buffer is in the rx queue
};

TEST_F(VsockTest, GuestTalksToTheHost)
{
    EXPECT_EQ(driver->in(0x2000, 8), 42u);
    connect();
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "hello"));
    EXPECT_EQ(read_host(), "hello");
    write_host("answer");
    const auto answer = receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.op, VIRTIO_VSOCK_OP_RW);
    EXPECT_EQ(answer->data, "answer");
    EXPECT_EQ(answer->header.src_port, 77u);
    EXPECT_EQ(answer->header.dst_port, guest_port);
    EXPECT_EQ(answer->header.fwd_cnt, 5u);
    EXPECT_FALSE(receive());

    VsockHeader end = packet(VIRTIO_VSOCK_OP_SHUTDOWN);
    end.flags = VIRTIO_VSOCK_SHUTDOWN_F_SEND;
    EXPECT_TRUE(send(end));
    EXPECT_EQ(read_host(), "end");
    write_host("more");
    EXPECT_EQ(receive()->data, "more");
    end.flags = vsock_shutdown_both;
    EXPECT_TRUE(send(end));
    expect(VIRTIO_VSOCK_OP_RST);
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "late"));
    expect(VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(counter("broken"), 0u);
}

TEST_F(VsockTest, HostEndsFirst)
{
    connect();
    write_host("last words");
    ::shutdown(ends.back().get(), SHUT_WR);
    driver->pump();
    EXPECT_EQ(receive()->data, "last words");
    expect(VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_F_SEND);
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "still heard"));
    EXPECT_EQ(read_host(), "still heard");
    ends.clear();
    driver->pump();
    expect(VIRTIO_VSOCK_OP_SHUTDOWN, vsock_shutdown_both);
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "nobody listens")) << "it may not know yet";
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RST)));
    EXPECT_FALSE(receive());
}

TEST_F(VsockTest, GuestMayStopListening)
{
    connect();
    VsockHeader end = packet(VIRTIO_VSOCK_OP_SHUTDOWN);
    end.flags = VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE;
    EXPECT_TRUE(send(end));
    EXPECT_EQ(::send(ends.back().get(), "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "speaks"));
    EXPECT_EQ(read_host(), "speaks");
}

TEST_F(VsockTest, HostTalksToTheGuest)
{
    host->accept(5, host->pair());
    const auto request = receive();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->header.op, VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(request->header.dst_port, 5u);
    const std::uint32_t port = request->header.src_port;
    EXPECT_GE(port, 1u << 30);
    EXPECT_EQ(read_host(), "-");
    VsockHeader response = packet(VIRTIO_VSOCK_OP_RESPONSE, port);
    response.src_port = 5;
    EXPECT_TRUE(send(response));
    EXPECT_EQ(read_host(), "OK " + std::to_string(port) + "\n");

    host->accept(5, host->pair());
    const auto second = receive();
    ASSERT_TRUE(second);
    EXPECT_NE(second->header.src_port, port);
    response = packet(VIRTIO_VSOCK_OP_RST, second->header.src_port);
    response.src_port = 5;
    EXPECT_TRUE(send(response));
    EXPECT_EQ(read_host(), "end");
    EXPECT_FALSE(receive()) << "no answer to a reset";
}

TEST_F(VsockTest, ClientLosesPatience)
{
    host->accept(5, host->pair());
    ends.clear();
    driver->pump();
    EXPECT_FALSE(receive()) << "the guest never heard of it";
    host->accept(5, host->pair());
    expect(VIRTIO_VSOCK_OP_REQUEST);
    ends.clear();
    driver->pump();
    expect(VIRTIO_VSOCK_OP_RST);
}

TEST_F(VsockTest, Refused)
{
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_REQUEST, 78)));
    expect(VIRTIO_VSOCK_OP_RST);
    VsockHeader odd = packet(VIRTIO_VSOCK_OP_REQUEST);
    odd.type = 2;
    EXPECT_TRUE(send(odd));
    expect(VIRTIO_VSOCK_OP_RST);
    odd = packet(VIRTIO_VSOCK_OP_REQUEST);
    odd.dst_cid = 9;
    EXPECT_TRUE(send(odd));
    expect(VIRTIO_VSOCK_OP_RST);
    odd = packet(VIRTIO_VSOCK_OP_REQUEST);
    odd.src_cid = 43;
    EXPECT_TRUE(send(odd));
    EXPECT_FALSE(receive()) << "not from this guest";
    EXPECT_EQ(counter("dropped"), 1u);
    EXPECT_TRUE(ends.empty());
    odd = packet(static_cast<VsockOp>(99));
    EXPECT_TRUE(send(odd));
    expect(VIRTIO_VSOCK_OP_RST);
}

TEST_F(VsockTest, SecondRequestForTheSameEndsIt)
{
    connect();
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_REQUEST)));
    expect(VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(read_host(), "end");
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "x"));
    expect(VIRTIO_VSOCK_OP_RST);
}

TEST_F(VsockTest, SlowHost)
{
    connect();
    const std::string block(16384, 'b');
    std::uint32_t sent = 0;
    // The host's socket takes some; our buffer takes the rest.
    while (sent < 4u << 20) {
        EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), block));
        sent += 16384;
        const auto packet = receive();
        if (!packet) continue;
        if (packet->header.op == VIRTIO_VSOCK_OP_RST) break;
        EXPECT_EQ(packet->header.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    }
    EXPECT_LT(sent, 4u << 20) << "who ignores credit is reset";
    // What was taken before arrives, and then the end.
    std::size_t got = 0;
    for (std::string text; (text = read_host()) != "end"; got += text.size()) ASSERT_NE(text, "-");
    EXPECT_EQ(got, sent - 16384);
}

TEST_F(VsockTest, SlowGuest)
{
    connect();
    VsockHeader small = packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    small.buf_alloc = 10;
    EXPECT_TRUE(send(small));
    write_host("0123456789abcdef");
    EXPECT_EQ(receive()->data, "0123456789");
    EXPECT_FALSE(receive());
    small.fwd_cnt = 4;
    EXPECT_TRUE(send(small));
    EXPECT_EQ(receive()->data, "abcd");
    small.fwd_cnt = 400;
    EXPECT_TRUE(send(small));
    EXPECT_FALSE(receive());
    ::shutdown(ends.back().get(), SHUT_WR);
    small.fwd_cnt = 14;
    EXPECT_TRUE(send(small));
    EXPECT_EQ(receive()->data, "ef");
    expect(VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_F_SEND);
}

TEST_F(VsockTest, SmallBuffersSplitWhatIsSent)
{
    connect();
    write_host("abcdef");
    EXPECT_EQ(receive(sizeof(VsockHeader) + 4)->data, "abcd");
    EXPECT_EQ(receive(sizeof(VsockHeader) + 4)->data, "ef");
    write_host("x");
    rings[0]->add({{rx_at, sizeof(VsockHeader), true}});
    driver->ring(0);
    EXPECT_TRUE(broken());
}

TEST_F(VsockTest, StreamsTakeTurns)
{
    connect();
    VsockHeader other = packet(VIRTIO_VSOCK_OP_REQUEST);
    other.src_port = 2000;
    EXPECT_TRUE(send(other));
    expect(VIRTIO_VSOCK_OP_RESPONSE);
    for (const base::Fd& end : ends) {
        const std::string much(20000, 'm');
        EXPECT_EQ(::write(end.get(), much.data(), much.size()), 20000);
    }
    driver->pump();
    const auto first = receive(), second = receive();
    ASSERT_TRUE(first && second);
    EXPECT_NE(first->header.dst_port, second->header.dst_port);
}

TEST_F(VsockTest, AnswersThatNobodyTakesStopTheQueue)
{
    unsigned taken = 0;
    while (taken < 1000 && send(packet(VIRTIO_VSOCK_OP_RW, 5))) ++taken;
    EXPECT_EQ(taken, 256u);
    EXPECT_EQ(rings[1]->room(), 15u);
    expect(VIRTIO_VSOCK_OP_RST);
    EXPECT_TRUE(rings[1]->take()) << "room for one more";
}

TEST_F(VsockTest, NoMoreStreamsThanThereAre)
{
    unsigned open = 0;
    for (std::uint32_t port = 0; port < 2 * Vsock::most_streams; ++port) {
        VsockHeader request = packet(VIRTIO_VSOCK_OP_REQUEST);
        request.src_port = port;
        EXPECT_TRUE(send(request));
        const auto answer = receive();
        ASSERT_TRUE(answer);
        if (answer->header.op == VIRTIO_VSOCK_OP_RST) break;
        ++open;
    }
    EXPECT_EQ(open, Vsock::most_streams);
    host->accept(5, host->pair());
    EXPECT_EQ(read_host(), "end");
    driver->out(0x14, 0, 1);
    set_up();
    connect();
}

TEST_F(VsockTest, BrokenPackets)
{
    EXPECT_TRUE(send(packet(VIRTIO_VSOCK_OP_RW), "abc", 1));
    EXPECT_TRUE(broken());
    set_up();
    EXPECT_FALSE(broken());
    rings[1]->add({{tx_at, 43}});
    driver->ring(1);
    EXPECT_TRUE(broken());
}

TEST_F(VsockTest, LoadedMachineTellsThatStreamsAreGone)
{
    connect();
    base::StateWriter writer;
    {
        const auto guard = world.bus.lock();
        driver->transport.save(writer);
    }
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(reader);
    {
        const auto guard = world.bus.lock();
        ASSERT_TRUE(driver->transport.load(*reader));
    }
    EXPECT_EQ(read_host(), "end");
    rings[2]->add({{rx_at, 8, true}});
    driver->ring(2);
    const auto used = rings[2]->take();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, sizeof(VsockEvent));
    EXPECT_EQ(rings[2]->get<std::uint32_t>(rx_at), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    rings[2]->add({{rx_at, 8, true}});
    driver->ring(2);
    EXPECT_FALSE(rings[2]->take()) << "once";
}

}  // namespace
}  // namespace doppel::devices::virtio
