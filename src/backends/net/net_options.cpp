#include "backends/net/net_options.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "backends/net/pcap.h"
#include "base/option_text.h"

namespace doppel::backends {

namespace {

using Done = base::Result<void>;

std::optional<std::uint64_t> number(std::string_view text, std::uint64_t least, std::uint64_t most)
{
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = error == std::errc{} && end == text.data() + text.size() && !text.empty();
    if (!whole || value < least || value > most) return std::nullopt;
    return value;
}

// With an optional suffix K, M or G.
Done set_rate(std::uint64_t& to, std::string_view key, std::string_view value)
{
    static constexpr std::string_view letters = "KMG", small = "kmg";
    unsigned shift = 0;
    std::string_view digits = value;
    if (!value.empty()) {
        const auto at = std::min(letters.find(value.back()), small.find(value.back()));
        if (at != std::string_view::npos) {
            shift = static_cast<unsigned>(10 * (at + 1));
            digits.remove_suffix(1);
        }
    }
    constexpr std::uint64_t most = std::uint64_t{1} << 50;  // tokens are counted in billionths
    const auto found = number(digits, 1, most >> shift);
    if (!found) return base::bad_value(key, value, "a number above 0, with suffix K, M or G");
    to = *found << shift;
    return {};
}

Done set_on_off(bool& to, std::string_view key, std::string_view value)
{
    to = TRY(base::on_or_off(key, value));
    return {};
}

std::optional<in_addr> address(std::string_view text)
{
    in_addr found{};
    if (::inet_pton(AF_INET, std::string{text}.c_str(), &found) != 1) return std::nullopt;
    return found;
}

std::optional<MacAddress> mac(std::string_view text)
{
    MacAddress found{};
    if (text.size() != 17) return std::nullopt;
    for (std::size_t i = 0; i < 6; ++i) {
        const char* at = text.data() + 3 * i;
        if (i != 0 && at[-1] != ':') return std::nullopt;
        const auto [end, error] = std::from_chars(at, at + 2, found[i], 16);
        if (error != std::errc{} || end != at + 2) return std::nullopt;
    }
    // A group's address is nobody's, nor is zero.
    if ((found[0] & 1) != 0 || found == MacAddress{}) return std::nullopt;
    return found;
}

struct Endpoint {
    in_addr at{};
    std::uint16_t port = 0;
};

// [ADDRESS]:PORT
std::optional<Endpoint> endpoint(std::string_view text)
{
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    Endpoint found;
    if (colon != 0) {
        const auto at = address(text.substr(0, colon));
        if (!at) return std::nullopt;
        found.at = *at;
    }
    const auto port = number(text.substr(colon + 1), 1, 65535);
    if (!port) return std::nullopt;
    found.port = static_cast<std::uint16_t>(*port);
    return found;
}

// tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT
Done add_forward(UserOptions& user, std::string_view key, std::string_view value)
{
    const base::Error wrong = base::bad_value(key, value, "tcp:127.0.0.1:2222-:22 or the same with udp");
    PortForward forward;
    forward.udp = value.starts_with("udp:");
    if (!forward.udp && !value.starts_with("tcp:")) return wrong;
    const std::string_view ends = value.substr(4);
    const auto dash = ends.find('-');
    if (dash == std::string_view::npos) return wrong;
    const auto host = endpoint(ends.substr(0, dash));
    const auto guest = endpoint(ends.substr(dash + 1));
    if (!host || !guest) return wrong;
    forward.host = host->at;
    // Whom the whole world is to reach, the user says so.
    if (ends.starts_with(':')) forward.host.s_addr = htonl(INADDR_LOOPBACK);
    forward.host_port = host->port;
    forward.guest = guest->at;
    forward.guest_port = guest->port;
    user.forwards.push_back(forward);
    return {};
}

Done set_network(UserOptions& user, std::string_view key, std::string_view value)
{
    const base::Error wrong =
        base::bad_value(key, value, "a network of 8 to 27 bits, such as 10.0.2.0/24");
    const auto slash = value.find('/');
    if (slash == std::string_view::npos) return wrong;
    const auto network = address(value.substr(0, slash));
    const auto bits = number(value.substr(slash + 1), 8, 27);
    if (!network || !bits) return wrong;
    user.mask.s_addr = htonl(~std::uint32_t{0} << (32 - *bits));
    user.network.s_addr = network->s_addr & user.mask.s_addr;
    if (user.network.s_addr != network->s_addr) return wrong;
    return {};
}

using Taken = base::Result<bool>;  // false: not one of its keys

Taken set(UserOptions& user, std::string_view key, std::string_view value)
{
    if (key == "hostfwd") {
        TRY(add_forward(user, key, value));
    } else if (key == "net") {
        TRY(set_network(user, key, value));
    } else if (key == "dns") {
        const auto found = address(value);
        if (!found || found->s_addr == 0) return base::bad_value(key, value, "an address of the network");
        user.dns = *found;
    } else if (key == "hostname") {
        const bool good = std::all_of(value.begin(), value.end(), [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                   c == '-' || c == '.';
        });
        if (value.empty() || value.size() > 32 || !good) {
            return base::bad_value(key, value, "a name of 1 to 32 letters, digits, - and .");
        }
        user.hostname = value;
    } else if (key == "restrict") {
        TRY(set_on_off(user.restricted, key, value));
    } else if (key == "loopback") {
        TRY(set_on_off(user.loopback, key, value));
    } else if (key == "ipv6") {
        TRY(set_on_off(user.ipv6, key, value));
    } else {
        return false;
    }
    return true;
}

Taken set(TapOptions& tap, std::string_view key, std::string_view value)
{
    if (key == "name") {
        const bool good = std::none_of(value.begin(), value.end(), [](char c) {
            return c <= ' ' || c == '/' || c == ':' || c == '%' || c == 0x7f;
        });
        if (value.empty() || value.size() >= IFNAMSIZ || !good) {
            return base::bad_value(key, value, "the name of an interface, 1 to 15 characters");
        }
        tap.name = value;
    } else if (key == "queues") {
        const auto count = number(value, 1, most_net_queues);
        if (!count) return base::bad_value(key, value, "1 to " + std::to_string(most_net_queues));
        tap.queues = static_cast<unsigned>(*count);
    } else {
        return false;
    }
    return true;
}

Taken set(StreamOptions& stream, std::string_view key, std::string_view value)
{
    if (key == "server") {
        TRY(set_on_off(stream.server, key, value));
    } else if (key == "reconnect") {
        const auto seconds = number(value, 0, 3600);
        if (!seconds) return base::bad_value(key, value, "seconds, 0 to 3600");
        stream.reconnect_seconds = static_cast<unsigned>(*seconds);
    } else {
        return false;
    }
    return true;
}

Taken set_common(NetOptions& options, std::string_view key, std::string_view value)
{
    if (key == "mac") {
        options.mac = mac(value);
        if (!options.mac) return base::bad_value(key, value, "an address such as 52:54:00:12:34:56, no group's");
    } else if (key == "mtu") {
        const auto bytes = number(value, 68, 65520);
        if (!bytes) return base::bad_value(key, value, "68 to 65520");
        options.mtu = static_cast<std::uint16_t>(*bytes);
    } else if (key == "bps") {
        TRY(set_rate(options.rates.bytes, key, value));
    } else if (key == "bps_burst") {
        TRY(set_rate(options.rates.burst_bytes, key, value));
    } else if (key == "pps") {
        TRY(set_rate(options.rates.frames, key, value));
    } else if (key == "pps_burst") {
        TRY(set_rate(options.rates.burst_frames, key, value));
    } else if (key == "pcap") {
        if (value.empty()) return base::bad_value(key, value, "a file to write");
        options.pcap = value;
    } else {
        return false;
    }
    return true;
}

Taken set(VhostUserLink&, std::string_view, std::string_view) { return false; }

constexpr std::string_view common_keys = "mac, mtu, bps, bps_burst, pps, pps_burst and pcap";

std::string_view keys_of(const NetOptions& options)
{
    switch (options.link.index()) {
    case 0: return "hostfwd, net, dns, hostname, restrict, loopback, ipv6, ";
    case 1: return "name, queues, ";
    case 3: return "";
    default: return "server, reconnect, ";
    }
}

Done start(NetOptions& options, const std::string& kind)
{
    constexpr std::string_view stream = "stream:", vhost_user = "vhost-user:";
    if (kind == "user") {
        UserOptions& user = options.link.emplace<UserOptions>();
        user.network.s_addr = htonl(0x0a000200);
        user.mask.s_addr = htonl(0xffffff00);
    } else if (kind == "tap") {
        options.link.emplace<TapOptions>();
    } else if (kind.starts_with(stream) && kind.size() > stream.size()) {
        options.link.emplace<StreamOptions>().path = kind.substr(stream.size());
    } else if (kind.starts_with(vhost_user) && kind.size() > vhost_user.size()) {
        options.link.emplace<VhostUserLink>().path = kind.substr(vhost_user.size());
    } else {
        return base::usage_error("'" + kind + "' is no network; use user, tap, stream:PATH or "
                                              "vhost-user:PATH");
    }
    return {};
}

bool inside(const UserOptions& user, in_addr at)
{
    return at.s_addr == 0 || (at.s_addr & user.mask.s_addr) == user.network.s_addr;
}

// What no key can say by itself.
Done check(const NetOptions& options)
{
    if (options.rates.burst_bytes != 0 && options.rates.bytes == 0) {
        return base::usage_error("bps_burst needs bps");
    }
    if (options.rates.burst_frames != 0 && options.rates.frames == 0) {
        return base::usage_error("pps_burst needs pps");
    }
    if (const auto* user = std::get_if<UserOptions>(&options.link)) {
        if (!inside(*user, user->dns)) {
            return base::usage_error("dns= is outside of the network; choose one inside net=");
        }
        for (const PortForward& forward : user->forwards) {
            if (!inside(*user, forward.guest)) {
                return base::usage_error("hostfwd= leads out of the network; leave the guest's "
                                         "address out, or choose one inside net=");
            }
        }
        if (user->ipv6 && options.mtu.value_or(1500) < 1280) {
            return base::usage_error("mtu= below 1280 is too little for IPv6; add ipv6=off");
        }
    }
    if (std::holds_alternative<VhostUserLink>(options.link) &&
        (options.rates.any() || !options.pcap.empty())) {
        return base::usage_error("pcap= and limits are for networks whose frames come by here; "
                                 "leave them out, or use stream:PATH");
    }
    const auto* stream = std::get_if<StreamOptions>(&options.link);
    if (stream != nullptr && stream->server && stream->reconnect_seconds) {
        return base::usage_error("reconnect= is for the side that connects; leave it out with "
                                 "server=on");
    }
    return {};
}

}  // namespace

base::Result<NetOptions> parse_net_options(std::string_view text)
{
    NetOptions options;
    TRY(start(options, base::take_option_part(text)));
    std::set<std::string, std::less<>> seen;
    while (!text.empty()) {
        const base::KeyValue part = base::split_key(base::take_option_part(text));
        const std::string &key = part.key, &value = part.value;
        if (key != "hostfwd" && !seen.insert(key).second) {
            return base::usage_error(key + " is given twice");
        }
        if (TRY(set_common(options, key, value))) continue;
        if (TRY(std::visit([&](auto& link) { return set(link, key, value); }, options.link))) {
            continue;
        }
        return base::usage_error("There is no '" + key + "' here; the keys are " +
                                 std::string{keys_of(options)} + std::string{common_keys});
    }
    TRY(check(options));
    return options;
}

MacAddress default_mac(const NetOptions& options, unsigned number)
{
    std::string identity = std::to_string(options.link.index()) + "/" + std::to_string(number);
    if (const auto* tap = std::get_if<TapOptions>(&options.link)) identity += "/" + tap->name;
    if (const auto* stream = std::get_if<StreamOptions>(&options.link)) {
        identity += (stream->server ? "/server/" : "/client/") + stream->path;
    }
    if (const auto* other = std::get_if<VhostUserLink>(&options.link)) {
        identity += "/" + other->path;
    }
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    for (const char c : identity) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    const auto byte = [&](unsigned i) { return static_cast<std::uint8_t>(hash >> (8 * i + 16)); };
    return {0x52, 0x54, 0x00, byte(2), byte(1), byte(0)};
}

namespace {

base::Result<std::unique_ptr<NetBackend>> open_link(const NetOptions& options,
                                                    base::EventLoop& loop)
{
    const std::uint16_t mtu = options.mtu.value_or(1500);
    if (const auto* user = std::get_if<UserOptions>(&options.link)) {
        return open_user_net(loop, *user, mtu);
    }
    if (const auto* stream = std::get_if<StreamOptions>(&options.link)) {
        return StreamNet::create(loop, *stream, mtu);
    }
    TapOptions tap = std::get<TapOptions>(options.link);
    tap.mtu = options.mtu.value_or(0);
    return TapNet::create(loop, tap);
}

}  // namespace

base::Result<std::unique_ptr<NetBackend>> open_net(const NetOptions& options,
                                                   base::EventLoop& loop)
{
    auto net = TRY(open_link(options, loop));
    if (options.rates.any()) net = TRY(RateLimit::create(loop, std::move(net), options.rates));
    if (options.pcap.empty()) return net;
    auto recorded = Pcap::create(std::move(net), options.pcap);
    if (!recorded) return recorded.error().with_context("--net");
    return recorded;
}

}  // namespace doppel::backends
