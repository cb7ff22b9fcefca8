// Frames over a Unix stream socket, to another virtual machine, passt or any program that speaks
// as QEMU's -netdev stream does. No offloads: they have no place in that protocol.
//
// The link is up while somebody is at the other end; a peer that breaks the protocol is dropped.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/loop_timer.h"
#include "backends/net/net.h"
#include "backends/net/stream_decoder.h"
#include "backends/unix_socket.h"
#include "base/event_loop.h"

namespace doppel::backends {

struct StreamOptions {
    std::string path;
    bool server = false;  // listen there, for one peer at a time, instead of connecting
    // Connecting: try again so often, from the start on. Without it the peer must be there at the
    // start, and is looked for every second when it has gone. 0: not again.
    std::optional<unsigned> reconnect_seconds;
};

// Threads: as NetBackend.
class StreamNet final : public NetBackend {
public:
    static base::Result<std::unique_ptr<NetBackend>> create(base::EventLoop& loop,
                                                            const StreamOptions& options,
                                                            std::uint16_t mtu);
    ~StreamNet() override;

    [[nodiscard]] NetProperties properties() const override { return {{}, {}, mtu_, 1}; }
    [[nodiscard]] bool link_up() const override { return peer_.valid(); }
    void attach(NetReceiver& receiver) override { receiver_ = &receiver; }
    Handed send(unsigned queue, Frame& frame) noexcept override;
    void flush(unsigned queue) noexcept override;
    void resume(unsigned queue) noexcept override;
    void set_offloads(const Offloads&) noexcept override {}
    void set_queues(unsigned) noexcept override {}
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    StreamNet(base::EventLoop& loop, const StreamOptions& options, std::uint16_t mtu)
        : loop_(loop), options_(options), mtu_(mtu)
    {
    }
    [[nodiscard]] std::string what() const { return "--net stream:" + options_.path; }
    void accept_peer() noexcept;
    void try_to_connect() noexcept;
    void begin(base::Fd peer) noexcept;
    void end(std::string_view why) noexcept;
    void events(std::uint32_t events) noexcept;
    void read() noexcept;
    // False: the receiver has no room.
    bool deliver() noexcept;
    void write_out() noexcept;
    void watch() noexcept;

    base::EventLoop& loop_;
    const StreamOptions options_;
    const std::uint16_t mtu_;
    std::optional<UnixListener> listener_;
    std::unique_ptr<base::LoopTimer> retry_;
    NetReceiver* receiver_ = nullptr;

    base::Fd peer_;
    std::uint32_t watched_ = 0;
    StreamDecoder in_;
    bool receiver_waits_ = false;  // it has no room for the next frame
    std::vector<std::byte> out_;
    std::size_t out_begin_ = 0;
    bool sender_waits_ = false;
    std::uint64_t connections_ = 0, broken_ = 0, dropped_in_ = 0, dropped_out_ = 0;
};

}  // namespace doppel::backends
