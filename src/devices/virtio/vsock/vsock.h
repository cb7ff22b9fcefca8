// Socket device: streams between programs of the guest and of the host. Virtio 1.2, section 5.10.
//
//   guest ── tx queue ──▶ take_packets() ──▶ Stream, StreamSocket ──▶ program of the host
//   guest ◀── rx queue ── give_packets() ◀── Stream, StreamSocket ◀──
//
// Nothing is read from the host that the guest has not room for, so that it waits in the host's
// sockets. What goes to the guest without data is kept as flags of its stream; answers for streams
// that are gone are kept in a list, and while that is full nothing is taken from the guest.
#pragma once

#include <compare>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "backends/vsock/stream_socket.h"
#include "backends/vsock/vsock_backend.h"
#include "devices/virtio/device.h"
#include "devices/virtio/vsock/stream.h"

namespace doppel::devices::virtio {

class Vsock final : public Device {
public:
    static constexpr std::size_t most_streams = 256;

    // guest_cid: from 3 to 2^32 - 2.
    Vsock(std::unique_ptr<backends::VsockBackend> backend, std::uint32_t guest_cid,
          base::EventLoop& loop);
    ~Vsock() override;

    [[nodiscard]] const Identity& identity() const override;
    [[nodiscard]] Features features() const override { return VIRTIO_VSOCK_F_STREAM; }
    [[nodiscard]] std::span<const std::byte> config() const override;
    void activate(Active& active) noexcept override { active_ = &active; }
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    // Streams end with the process that they were made in: the guest is told.
    base::Result<void> load(const base::StateReader& reader, std::string_view section) override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    struct Key {
        std::uint32_t host_port, guest_port;
        auto operator<=>(const Key&) const = default;
    };
    struct Connection {
        Connection(Stream::Origin origin, base::EventLoop& loop, base::Fd fd)
            : stream(origin), socket(std::make_unique<backends::StreamSocket>(loop, std::move(fd)))
        {
        }
        Stream stream;
        std::unique_ptr<backends::StreamSocket> socket;
        bool ready = false;  // in ready_
    };
    using Connections = std::map<Key, Connection>;

    void take_packets();
    void take(const VsockHeader& header, ChainReader data);
    void open_to_host(const VsockHeader& request);
    void accept_client(std::uint32_t guest_port, base::Fd client);
    Connection* add(const Key& key, Stream::Origin origin, base::Fd fd);
    void socket_changed(const Key& key);
    void update(const Key& key, Connection& connection);
    // What the guest has written goes on its way all the same.
    void drop(Connections::iterator connection);

    void reset(const VsockHeader& refused);
    void note_ready(const Key& key, Connection& connection);
    void give_packets();
    [[nodiscard]] std::uint32_t fill_chain();
    [[nodiscard]] std::optional<VsockHeader> fill_data(Connection& connection);
    void give_event();
    [[nodiscard]] bool full() const
    {
        return connections_.size() + leaving_.size() >= most_streams;
    }

    std::unique_ptr<backends::VsockBackend> backend_;
    base::EventLoop& loop_;
    VsockConfig config_;
    Active* active_ = nullptr;
    Chain chain_;
    Connections connections_;
    std::deque<Key> ready_;           // have something for the guest; may be gone
    std::deque<VsockHeader> replies_;
    // Sockets of streams that are no more, with bytes for the host.
    std::map<std::uint64_t, std::unique_ptr<backends::StreamSocket>> leaving_;
    std::uint64_t departures_ = 0;
    std::uint32_t next_host_port_;
    bool reset_pending_ = false;  // the event
    struct {
        std::uint64_t streams, refused, dropped, to_host_bytes, to_guest_bytes;
    } totals_{};
};

}  // namespace doppel::devices::virtio
