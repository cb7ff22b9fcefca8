// A network of its own for one guest, made of the host's ordinary sockets by libslirp: no rights
// needed. The guest has a router with DHCP, a DNS server and a way out; the host reaches it
// through forwarded ports only.
//
// What the guest sends may be large segments with unfinished checksums: they save it most of the
// work, and here it is one pass over the bytes.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/net/net.h"
#include "base/event_loop.h"
#include "base/result.h"

namespace doppel::backends {

struct PortForward {
    bool udp = false;
    in_addr host{};   // of the host, to listen on
    in_addr guest{};  // 0.0.0.0: what DHCP gives the guest
    std::uint16_t host_port = 0, guest_port = 0;
};

struct UserOptions {
    in_addr network{}, mask{};  // such as 10.0.2.0 and 255.255.255.0
    in_addr dns{};              // as the guest sees the server; 0.0.0.0: the network's third
    std::string hostname;       // that DHCP gives; empty: none
    bool restricted = false;    // nothing leaves but answers to forwarded ports
    bool loopback = true;       // the router's address leads to the host's own services
    bool ipv6 = true;
    std::vector<PortForward> forwards;
};

base::Result<std::unique_ptr<NetBackend>> open_user_net(base::EventLoop& loop,
                                                        const UserOptions& options,
                                                        std::uint16_t mtu);

}  // namespace doppel::backends
