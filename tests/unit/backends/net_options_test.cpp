#include "backends/net/net_options.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "net_fixture.h"

namespace doppel::backends {
namespace {

NetOptions parsed(std::string_view text)
{
    auto options = parse_net_options(text);
    EXPECT_TRUE(options) << text << ": " << options.error().text();
    return std::move(options).value();
}

std::string error_of(std::string_view text)
{
    const auto options = parse_net_options(text);
    return options ? "" : options.error().text();
}

TEST(NetOptions, User)
{
    const auto options = parsed("user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:53-"
                                "192.168.5.9:5353,net=192.168.5.0/24,restrict,loopback=off,"
                                "mac=52:54:00:aB:cd:ef,mtu=9000,hostname=box");
    const auto& user = std::get<UserOptions>(options.link);
    ASSERT_EQ(user.forwards.size(), 2u);
    EXPECT_EQ(user.forwards[0].host.s_addr, htonl(0x7f000001));
    EXPECT_EQ(user.forwards[0].host_port, 2222);
    EXPECT_EQ(user.forwards[0].guest.s_addr, 0u);
    EXPECT_TRUE(user.forwards[1].udp);
    EXPECT_EQ(user.forwards[1].host.s_addr, 0u);
    EXPECT_EQ(user.forwards[1].guest.s_addr, htonl(0xc0a80509));
    EXPECT_TRUE(user.restricted);
    EXPECT_FALSE(user.loopback);
    EXPECT_EQ(options.mac, (MacAddress{0x52, 0x54, 0, 0xab, 0xcd, 0xef}));
    EXPECT_EQ(options.mtu, 9000);
}

TEST(NetOptions, ForwardsWithoutAnAddressAreForThisHost)
{
    const auto options = parsed("user,hostfwd=tcp::80-:80");
    EXPECT_EQ(std::get<UserOptions>(options.link).forwards[0].host.s_addr, htonl(0x7f000001));
}

TEST(NetOptions, TapStreamRatesAndCommas)
{
    const auto tap = parsed("tap,name=tap0,queues=4,bps=10M,bps_burst=1M,pps=1k");
    EXPECT_EQ(std::get<TapOptions>(tap.link).name, "tap0");
    EXPECT_EQ(std::get<TapOptions>(tap.link).queues, 4u);
    EXPECT_EQ(tap.rates.bytes, 10u << 20);
    EXPECT_EQ(tap.rates.frames, 1024u);
    const auto stream = parsed("stream:/run/a,,b,server=on,pcap=x,,y");
    EXPECT_EQ(std::get<StreamOptions>(stream.link).path, "/run/a,b");
    EXPECT_TRUE(std::get<StreamOptions>(stream.link).server);
    EXPECT_EQ(stream.pcap, "x,y");
    const auto other = parsed("vhost-user:/run/a,,b,mtu=9000");
    EXPECT_EQ(std::get<VhostUserLink>(other.link).path, "/run/a,b");
    EXPECT_NE(default_mac(other, 0), default_mac(parsed("vhost-user:/run/c"), 0));
}

TEST(NetOptions, ErrorsSayWhatIsWrong)
{
    const std::pair<const char*, const char*> cases[] = {
        {"", "user, tap, stream:PATH or vhost-user:PATH"},
        {"bridge", "user, tap, stream:PATH or vhost-user:PATH"},
        {"stream:", "user, tap, stream:PATH or vhost-user:PATH"},
        {"user,name=tap0", "the keys are hostfwd"},
        {"tap,hostfwd=tcp::1-:1", "the keys are name"},
        {"user,mac=53:54:00:12:34:56", "no group's"},
        {"user,mac=52-54-00-12-34-56", "mac="},
        {"user,mac=00:00:00:00:00:00", "mac="},
        {"user,mtu=67", "68 to 65520"},
        {"user,mtu=65521", "68 to 65520"},
        {"user,mtu=1000", "ipv6=off"},
        {"user,mtu=1500,mtu=1500", "given twice"},
        {"user,hostfwd=tcp:2222-:22", "expected tcp:"},
        {"user,hostfwd=sctp::1-:1", "expected tcp:"},
        {"user,hostfwd=tcp:localhost:1-:1", "expected tcp:"},
        {"user,hostfwd=tcp::0-:1", "expected tcp:"},
        {"user,hostfwd=tcp::1-:65536", "expected tcp:"},
        {"user,hostfwd=tcp::1-1.2.3.4:1", "out of the network"},
        {"user,net=10.0.2.1/24", "such as 10.0.2.0/24"},
        {"user,net=10.0.2.0/28", "8 to 27"},
        {"user,dns=8.8.8.8", "outside of the network"},
        {"user,bps=0", "above 0"},
        {"user,bps=9999999999T", "above 0"},
        {"user,bps_burst=1M", "needs bps"},
        {"user,pps_burst=1", "needs pps"},
        {"user,restrict=maybe", "on or off"},
        {"user,hostname=a b", "a name of"},
        {"user,pcap=", "a file"},
        {"tap,name=averyverylongname", "1 to 15"},
        {"tap,name=a/b", "1 to 15"},
        {"tap,name=tap%d", "1 to 15"},
        {"tap,queues=17", "1 to 16"},
        {"stream:/x,server,reconnect=1", "leave it out"},
        {"stream:/x,reconnect=-1", "seconds"},
        {"vhost-user:", "user, tap, stream:PATH or vhost-user:PATH"},
        {"vhost-user:/x,pcap=y", "come by here"},
        {"vhost-user:/x,bps=1M", "come by here"},
        {"vhost-user:/x,queues=2", "the keys are mac"},
    };
    for (const auto& [text, wanted] : cases) {
        EXPECT_NE(error_of(text).find(wanted), std::string::npos)
            << text << " said: " << error_of(text);
    }
}

TEST(NetOptions, DefaultAddressesDifferAndStay)
{
    const auto server = parsed("stream:/x,server"), client = parsed("stream:/x");
    EXPECT_NE(default_mac(server, 0), default_mac(client, 0));
    EXPECT_NE(default_mac(server, 0), default_mac(server, 1));
    EXPECT_EQ(default_mac(server, 0), default_mac(parsed("stream:/x,server"), 0));
    EXPECT_EQ(default_mac(server, 0)[0], 0x52);
}

class UserNetwork : public NetTest {};

TEST_F(UserNetwork, AnswersArpAndRefusesAPortThatIsTaken)
{
    const base::Fd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    const std::string port = std::to_string(ntohs(address.sin_port));
    const auto refused = open_net(parsed("user,hostfwd=tcp::" + port + "-:22"), *loop);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text().find(port), std::string::npos);

    Receiver receiver;
    const auto net = open_net(parsed("user"), *loop).value();
    net->attach(receiver);
    // Who has 10.0.2.2? Tell 10.0.2.15.
    static constexpr std::array<unsigned char, 42> request{
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2, 3, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
        0x52, 0x54, 0, 1, 2, 3, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2};
    const auto from = std::as_bytes(std::span{request});
    Bytes bytes{from.begin(), from.end()};
    Frame frame{{}, bytes};
    receiver.room = 0;
    EXPECT_EQ(net->send(0, frame), Handed::yes);
    EXPECT_TRUE(receiver.frames.empty() && receiver.refused == 0);  // nothing from within send()
    net->flush(0);
    EXPECT_GE(receiver.refused, 1u);
    receiver.room = 100;
    net->resume(0);
    ASSERT_TRUE(run_until([&] {
        for (const Bytes& got : receiver.frames) {
            if (got.size() >= 42 && got[12] == std::byte{8} && got[13] == std::byte{6} &&
                got[21] == std::byte{2}) {
                return true;
            }
        }
        return false;
    }));
}

}  // namespace
}  // namespace doppel::backends
