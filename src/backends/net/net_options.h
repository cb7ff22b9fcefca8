// What --net says: user|tap|stream:PATH|vhost-user:PATH[,key=value]... A comma in a value is written twice.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "backends/net/net.h"
#include "backends/net/rate_limit.h"
#include "backends/net/stream.h"
#include "backends/net/tap.h"
#include "backends/net/user.h"
#include "base/event_loop.h"

namespace doppel::backends {

using MacAddress = std::array<std::uint8_t, 6>;

// Frames go between the guest's rings and another process, not through a NetBackend.
struct VhostUserLink {
    std::string path;  // of its socket
};

struct NetOptions {
    std::variant<UserOptions, TapOptions, StreamOptions, VhostUserLink> link;
    std::optional<MacAddress> mac;
    std::optional<std::uint16_t> mtu;  // 68 to 65520
    NetRates rates;
    std::string pcap;  // a file; empty: none
};

// Keys for all: mac=, mtu=, bps=, bps_burst=, pps=, pps_burst=, pcap=FILE. user: hostfwd= (several),
// net=, dns=, hostname=, restrict=, loopback=, ipv6=. tap: name=, queues=. stream: server=,
// reconnect=. Usage errors say what was found; the caller adds the option's name.
base::Result<NetOptions> parse_net_options(std::string_view text);

// The address that a network card gets if none is given: the same for the same options and
// number, and others for others, so that two machines on one link differ.
[[nodiscard]] MacAddress default_mac(const NetOptions& options, unsigned number);

// Not for a VhostUserLink. Rate limit and pcap in front of it, as the options say. Errors name the option and the fix.
base::Result<std::unique_ptr<NetBackend>> open_net(const NetOptions& options,
                                                   base::EventLoop& loop);

}  // namespace doppel::backends
