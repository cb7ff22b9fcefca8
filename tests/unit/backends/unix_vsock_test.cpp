// The handshake of host clients, and sockets that never block.
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "backends/vsock/stream_socket.h"
#include "backends/vsock/unix_vsock.h"

namespace doppel::backends {
namespace {

TEST(UnixVsock, ConnectLine)
{
    EXPECT_EQ(parse_connect("CONNECT 52"), 52u);
    EXPECT_EQ(parse_connect("connect 0"), 0u);
    EXPECT_EQ(parse_connect("CONNECT 4294967294"), 4294967294u);
    for (const char* line : {"", "CONNECT", "CONNECT ", "CONNECT x", "CONNECT 5x", "CONNECT -1",
                             "CONNECT 4294967295", "CONNECT 4294967296", "CONNECTED 5", " CONNECT 5",
                             "CONNECT 5\r", "CONNECT  5"}) {
        EXPECT_FALSE(parse_connect(line)) << line;
    }
}

struct UnixVsockTest : testing::Test {
    std::string folder = "/tmp/doppel-vsock-XXXXXX";
    std::unique_ptr<base::EventLoop> loop = std::move(base::EventLoop::create()).value();
    std::unique_ptr<UnixVsock> vsock;
    std::vector<std::pair<std::uint32_t, base::Fd>> accepted;

    UnixVsockTest()
    {
        EXPECT_NE(::mkdtemp(folder.data()), nullptr);
        auto made = UnixVsock::create(*loop, folder + "/v");
        EXPECT_TRUE(made.has_value());
        vsock = std::move(made).value();
        vsock->attach([this](std::uint32_t port, base::Fd fd) {
            accepted.emplace_back(port, std::move(fd));
        });
    }
    ~UnixVsockTest() override
    {
        vsock.reset();
        ::rmdir(folder.c_str());
    }
    void pump()
    {
        for (int i = 0; i < 3; ++i) {
            loop->stop();
            loop->run();
        }
    }
    base::Fd client(std::string_view text)
    {
        auto fd = std::move(connect_unix(folder + "/v", "test")).value();
        pump();
        EXPECT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
        pump();
        return fd;
    }
    // "-": nothing yet.
    static std::string read(const base::Fd& fd)
    {
        std::string text(100, ' ');
        const ssize_t got = ::recv(fd.get(), text.data(), text.size(), MSG_DONTWAIT);
        if (got < 0) return errno == EAGAIN ? "-" : "end";
        text.resize(static_cast<std::size_t>(got));
        return got == 0 ? "end" : text;
    }
};

TEST_F(UnixVsockTest, TheLineAndNothingElseIsTaken)
{
    const base::Fd fd = client("CONNECT 80\nGET /");
    ASSERT_EQ(accepted.size(), 1u);
    EXPECT_EQ(accepted[0].first, 80u);
    EXPECT_EQ(read(accepted[0].second), "GET /");
}

TEST_F(UnixVsockTest, TheLineMayComeInPieces)
{
    const base::Fd fd = client("CON");
    EXPECT_EQ(::write(fd.get(), "NECT 7", 6), 6);
    pump();
    EXPECT_TRUE(accepted.empty());
    EXPECT_EQ(::write(fd.get(), "7\n", 2), 2);
    pump();
    ASSERT_EQ(accepted.size(), 1u);
    EXPECT_EQ(accepted[0].first, 77u);
}

TEST_F(UnixVsockTest, OtherLinesEndIt)
{
    for (const char* text : {"HELLO\n", "\n", "CONNECT 99999999999999999999999\n"}) {
        EXPECT_EQ(read(client(text)), "end") << text;
    }
    EXPECT_EQ(read(client(std::string(1000, 'C'))), "end");
    const base::Fd leaves = client("CONNECT 5");
    ::shutdown(leaves.get(), SHUT_WR);
    pump();
    EXPECT_EQ(read(leaves), "end");
    EXPECT_TRUE(accepted.empty());
}

TEST_F(UnixVsockTest, SilentClientsMakeRoom)
{
    std::vector<base::Fd> silent;
    for (std::size_t i = 0; i < UnixVsock::most_undecided; ++i) silent.push_back(client(""));
    EXPECT_EQ(read(silent[0]), "-");
    const base::Fd last = client("CONNECT 1\n");
    EXPECT_EQ(read(silent[0]), "end");
    EXPECT_EQ(read(silent[1]), "-");
    EXPECT_EQ(accepted.size(), 1u);
}

TEST_F(UnixVsockTest, GuestReachesPathWithItsPort)
{
    EXPECT_FALSE(vsock->connect(9));
    const auto listener = UnixListener::create(folder + "/v_9", "test");
    ASSERT_TRUE(listener);
    EXPECT_TRUE(vsock->connect(9));
    EXPECT_TRUE(listener->accept().valid());
}

struct StreamSocketTest : testing::Test {
    std::unique_ptr<base::EventLoop> loop = std::move(base::EventLoop::create()).value();
    base::Fd other;
    std::unique_ptr<StreamSocket> socket;
    unsigned changes = 0;

    StreamSocketTest()
    {
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        other = base::Fd{fds[1]};
        socket = std::make_unique<StreamSocket>(*loop, base::Fd{fds[0]});
        EXPECT_TRUE(socket->watch([this] { ++changes; }));
        pump();
    }
    void pump()
    {
        loop->stop();
        loop->run();
    }
};

TEST_F(StreamSocketTest, KeepsWhatDoesNotGo)
{
    std::vector<std::byte> much(1 << 20);
    for (std::size_t i = 0; i < much.size(); ++i) much[i] = static_cast<std::byte>(i * 7 >> 3);
    socket->write(std::span{much}.first(much.size() / 2));
    socket->write(std::span{much}.subspan(much.size() / 2));
    EXPECT_GT(socket->kept(), 0u);
    socket->finish_output();
    EXPECT_FALSE(socket->output_ended());
    std::vector<std::byte> all;
    for (;;) {
        std::array<std::byte, 10000> part{};
        const ssize_t got = ::read(other.get(), part.data(), part.size());
        if (got == 0) break;
        if (got > 0) all.insert(all.end(), part.begin(), part.begin() + got);
        pump();
    }
    EXPECT_EQ(all, much);
    EXPECT_TRUE(socket->output_ended());
    EXPECT_EQ(socket->kept(), 0u);
}

TEST_F(StreamSocketTest, ReadsUntilTheEnd)
{
    std::array<std::byte, 4> part{};
    EXPECT_EQ(socket->read(part), 0u);
    EXPECT_FALSE(socket->readable());
    const unsigned before = changes;
    EXPECT_EQ(::write(other.get(), "abcdef", 6), 6);
    pump();
    EXPECT_GT(changes, before);
    EXPECT_EQ(socket->read(part), 4u);
    EXPECT_EQ(socket->read(part), 2u);
    EXPECT_TRUE(socket->readable()) << "nothing has said otherwise";
    EXPECT_FALSE(socket->hung_up());
    other.reset();
    pump();
    EXPECT_TRUE(socket->hung_up());
    EXPECT_EQ(socket->read(part), 0u);
    EXPECT_TRUE(socket->input_ended());
    EXPECT_FALSE(socket->readable());
}

TEST_F(StreamSocketTest, WritesToNobodyVanish)
{
    std::vector<std::byte> much(1 << 20);
    socket->write(much);
    EXPECT_GT(socket->kept(), 0u);
    other.reset();
    pump();
    EXPECT_TRUE(socket->output_ended());
    EXPECT_EQ(socket->kept(), 0u);
    socket->write(much);
    EXPECT_EQ(socket->kept(), 0u);
}

}  // namespace
}  // namespace doppel::backends
