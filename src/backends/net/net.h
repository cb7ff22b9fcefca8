// The host's end of a network link: whole Ethernet frames, in batches, with back-pressure.
//
//   device ──send(), flush()──▶ pcap ──▶ rate limit ──▶ user │ tap │ stream
//   device ◀─receive(), received()─────────────────────────
//
// Whoever says "wait" is told later: a full backend calls writable(), a full receiver resume().
//
// Threads: a backend belongs to the thread that runs its event loop, or will run it. All members
// are called there, and it calls its receiver there; destroy it there, or when no loop runs.
#pragma once

#include <cstdint>
#include <string_view>

#include "backends/net/frame.h"
#include "base/counters.h"

namespace doppel::backends {

enum class Handed { yes, wait };  // wait: no room; the frame is still its sender's

struct NetProperties {
    Offloads from_guest;      // what the backend does with frames that it is sent
    Offloads to_guest;        // what it would like to leave to the guest
    std::uint16_t mtu = 1500;
    unsigned queues = 1;      // in each direction, 1 to most_net_queues
};
inline constexpr unsigned most_net_queues = 16;

// The guest's side. Must not send() from receive().
class NetReceiver {
public:
    virtual ~NetReceiver() = default;
    [[nodiscard]] virtual Handed receive(unsigned queue, Frame& frame) noexcept = 0;
    // The end of a batch of frames.
    virtual void received(unsigned queue) noexcept = 0;
    // There is room again, after send() had said "wait".
    virtual void writable(unsigned queue) noexcept = 0;
    virtual void link_changed(bool up) noexcept = 0;
};

class NetBackend {
public:
    NetBackend() = default;
    NetBackend(const NetBackend&) = delete;
    NetBackend& operator=(const NetBackend&) = delete;
    virtual ~NetBackend() = default;

    [[nodiscard]] virtual NetProperties properties() const = 0;
    [[nodiscard]] virtual bool link_up() const { return true; }
    // Once, before anything else; it lives longer than the backend calls it.
    virtual void attach(NetReceiver& receiver) = 0;

    // A settled frame that asks for nothing outside from_guest. What the network cannot have is
    // dropped and counted, as networks do. The receiver hears nothing before send() returns.
    [[nodiscard]] virtual Handed send(unsigned queue, Frame& frame) noexcept = 0;
    virtual void flush(unsigned queue) noexcept = 0;
    // The receiver has room again, or may have.
    virtual void resume(unsigned queue) noexcept = 0;

    // What the guest agreed to; a part of to_guest. None at first.
    virtual void set_offloads(const Offloads& offloads) noexcept = 0;
    // How many queues the guest looks at: 1 at first, at most properties().queues.
    virtual void set_queues(unsigned count) noexcept = 0;

    virtual void counters(base::CounterList& list, std::string_view prefix) const = 0;
};

}  // namespace doppel::backends
