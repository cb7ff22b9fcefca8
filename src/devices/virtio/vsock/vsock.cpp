#include "devices/virtio/vsock/vsock.h"

#include <algorithm>
#include <string>

namespace doppel::devices::virtio {

namespace {

using enum VsockOp;

constexpr unsigned rx_queue = 0, tx_queue = 1, event_queue = 2;
// Ports of clients on the host: as Firecracker, from here on.
constexpr std::uint32_t first_host_port = 1u << 30, last_host_port = (1u << 31) - 1;
constexpr std::size_t most_replies = 256;
// Of data in a packet: other streams want to send, too.
constexpr std::size_t most_data = 64 * 1024;

}  // namespace

Vsock::Vsock(std::unique_ptr<backends::VsockBackend> backend, std::uint32_t guest_cid,
             base::EventLoop& loop)
    : backend_(std::move(backend)), loop_(loop), config_{guest_cid}, next_host_port_(first_host_port)
{
    ASSERT(guest_cid > host_cid && guest_cid != ~std::uint32_t{0});
    backend_->attach([this](std::uint32_t guest_port, base::Fd client) {
        accept_client(guest_port, std::move(client));
    });
}

Vsock::~Vsock() = default;

const Identity& Vsock::identity() const
{
    static constexpr std::array<std::uint16_t, 3> queues{128, 128, 16};
    static constexpr Identity identity{DeviceId::socket, "vsock", 0x078000, queues};
    return identity;
}

std::span<const std::byte> Vsock::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

void Vsock::deactivate() noexcept
{
    active_ = nullptr;
    while (!connections_.empty()) drop(connections_.begin());
    ready_.clear();
    replies_.clear();
    reset_pending_ = false;
}

void Vsock::process(unsigned queue) noexcept
{
    if (queue == event_queue) return give_event();
    if (queue == tx_queue) take_packets();
    give_packets();
}

// ---- from the guest ----------------------------------------------------------------------------

void Vsock::take_packets()
{
    Queue& queue = *active_->queue(tx_queue);
    unsigned chains = 0;
    for (; chains < chains_at_once && replies_.size() < most_replies && queue.pop(chain_); ++chains) {
        VsockHeader header{};
        ChainReader reader{chain_};
        const bool whole = reader.read_value(header) &&
                           header.len <= chain_.readable_size() - sizeof header;
        if (whole) take(header, reader);
        queue.push(chain_, 0);
        if (!whole) return queue.broken("a packet is shorter than it says");
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(tx_queue);
}

void Vsock::take(const VsockHeader& header, ChainReader data)
{
    if (header.src_cid != config_.guest_cid) {
        ++totals_.dropped;
        return;
    }
    const auto found = connections_.find({header.dst_port, header.src_port});
    if (header.dst_cid != host_cid || header.type != VIRTIO_VSOCK_TYPE_STREAM) return reset(header);
    if (found == connections_.end()) {
        return header.op == VIRTIO_VSOCK_OP_REQUEST ? open_to_host(header) : reset(header);
    }
    Stream& stream = found->second.stream;
    backends::StreamSocket& socket = *found->second.socket;
    switch (stream.take(header)) {
    case Stream::Effect::none: break;
    case Stream::Effect::opened: {
        const std::string answer = "OK " + std::to_string(header.dst_port) + "\n";
        socket.write(std::as_bytes(std::span{answer}));
        break;
    }
    case Stream::Effect::data:
        for (std::size_t left = header.len; left != 0;) {
            const auto part = data.rest().first(std::min(data.rest().size(), left));
            socket.write(part);
            data.took(part.size());
            left -= part.size();
        }
        totals_.to_host_bytes += header.len;
        break;
    case Stream::Effect::shut:
        if (!stream.guest_receives()) socket.finish_input();
        if (!stream.guest_sends()) socket.finish_output();
        if (stream.guest_receives() || stream.guest_sends()) break;
        [[fallthrough]];
    case Stream::Effect::violation:
        reset(header);
        return drop(found);
    case Stream::Effect::gone: return drop(found);
    }
    update(found->first, found->second);
}

void Vsock::open_to_host(const VsockHeader& request)
{
    auto fd = full() ? base::Result<base::Fd>{base::io_error("Too many streams")}
                     : backend_->connect(request.dst_port);
    Connection* connection =
        fd ? add({request.dst_port, request.src_port}, Stream::Origin::guest, std::move(*fd))
           : nullptr;
    if (connection == nullptr) {
        ++totals_.refused;
        return reset(request);
    }
    // The request counts only for the guest's room.
    VsockHeader credit = request;
    credit.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE;
    static_cast<void>(connection->stream.take(credit));
    note_ready({request.dst_port, request.src_port}, *connection);
}

// Section 5.10.6.6: so ends what cannot be, too. Never an answer to the same.
void Vsock::reset(const VsockHeader& refused)
{
    if (refused.op == VIRTIO_VSOCK_OP_RST) return;
    VsockHeader reply{};
    reply.src_cid = refused.dst_cid;
    reply.dst_cid = refused.src_cid;
    reply.src_port = refused.dst_port;
    reply.dst_port = refused.src_port;
    reply.type = refused.type;
    reply.op = VIRTIO_VSOCK_OP_RST;
    replies_.push_back(reply);
}

// ---- from the host -----------------------------------------------------------------------------

void Vsock::accept_client(std::uint32_t guest_port, base::Fd client)
{
    if (active_ == nullptr || full()) {
        ++totals_.refused;
        return;
    }
    Key key{next_host_port_, guest_port};
    while (connections_.contains(key)) {
        key.host_port = key.host_port == last_host_port ? first_host_port : key.host_port + 1;
    }
    next_host_port_ = key.host_port == last_host_port ? first_host_port : key.host_port + 1;
    Connection* connection = add(key, Stream::Origin::host, std::move(client));
    if (connection == nullptr) return;
    note_ready(key, *connection);
    give_packets();
}

Vsock::Connection* Vsock::add(const Key& key, Stream::Origin origin, base::Fd fd)
{
    const auto added = connections_.try_emplace(key, origin, loop_, std::move(fd)).first;
    if (!added->second.socket->watch([this, key] {
            socket_changed(key);
            give_packets();
        })) {
        connections_.erase(added);
        return nullptr;
    }
    ++totals_.streams;
    return &added->second;
}

void Vsock::socket_changed(const Key& key)
{
    const auto found = connections_.find(key);
    if (found == connections_.end()) return;
    Stream& stream = found->second.stream;
    if (found->second.socket->hung_up()) {
        if (stream.open()) {
            stream.host_receives_no_more();
        } else {
            // The client has lost patience.
            if (stream.known()) {
                reset({config_.guest_cid, host_cid, key.guest_port, key.host_port, 0,
                       VIRTIO_VSOCK_TYPE_STREAM, VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0});
            }
            return drop(found);
        }
    }
    update(key, found->second);
}

// What has become of the socket, for the stream to tell.
void Vsock::update(const Key& key, Connection& connection)
{
    const backends::StreamSocket& socket = *connection.socket;
    Stream& stream = connection.stream;
    stream.kept(static_cast<std::uint32_t>(socket.kept()));
    if (socket.output_ended() && stream.guest_sends()) stream.host_receives_no_more();
    if (socket.input_ended()) stream.host_sent_all();
    note_ready(key, connection);
}

void Vsock::drop(Connections::iterator connection)
{
    auto socket = std::move(connection->second.socket);
    connections_.erase(connection);
    if (socket->kept() == 0) return;
    socket->finish_output();
    const std::uint64_t number = departures_++;
    auto& left = leaving_[number] = std::move(socket);
    const auto watched = left->watch([this, number] {
        const auto found = leaving_.find(number);
        if (found != leaving_.end() && found->second->kept() == 0) leaving_.erase(found);
    });
    if (!watched) leaving_.erase(number);
}

// ---- to the guest ------------------------------------------------------------------------------

void Vsock::note_ready(const Key& key, Connection& connection)
{
    const bool has_data = connection.socket->readable() && connection.stream.credit() != 0;
    if (connection.ready || (!has_data && !connection.stream.has_message())) return;
    connection.ready = true;
    ready_.push_back(key);
}

void Vsock::give_packets()
{
    Queue* queue = active_ == nullptr ? nullptr : active_->queue(rx_queue);
    if (queue == nullptr) return;
    const bool stuck = replies_.size() >= most_replies;
    unsigned chains = 0;
    while (chains < chains_at_once && !(replies_.empty() && ready_.empty()) && queue->pop(chain_)) {
        if (chain_.writable_size() <= sizeof(VsockHeader)) {
            queue->push(chain_, 0);
            return queue->broken("a buffer has no room for a packet");
        }
        const std::uint32_t written = fill_chain();
        if (written == 0) {
            queue->unpop(chain_);
            break;
        }
        queue->push(chain_, written);
        ++chains;
    }
    queue->signal();
    if (chains == chains_at_once) active_->ring(rx_queue);
    if (stuck && replies_.size() < most_replies) active_->ring(tx_queue);
}

// Answers first, then each stream in its turn. 0: nobody has anything.
std::uint32_t Vsock::fill_chain()
{
    std::optional<VsockHeader> header;
    if (!replies_.empty()) {
        header = replies_.front();
        replies_.pop_front();
    }
    while (!header && !ready_.empty()) {
        const Key key = ready_.front();
        ready_.pop_front();
        const auto found = connections_.find(key);
        if (found == connections_.end()) continue;
        Connection& connection = found->second;
        connection.ready = false;
        if (!connection.stream.has_message()) header = fill_data(connection);
        if (!header && connection.stream.has_message()) header = connection.stream.message();
        note_ready(key, connection);
        if (!header) continue;
        header->src_cid = host_cid;
        header->dst_cid = config_.guest_cid;
        header->src_port = key.host_port;
        header->dst_port = key.guest_port;
    }
    if (!header) return 0;
    ChainWriter{active_->dma(), chain_}.write(std::as_bytes(std::span{&*header, 1}));
    return static_cast<std::uint32_t>(sizeof *header) + header->len;
}

std::optional<VsockHeader> Vsock::fill_data(Connection& connection)
{
    ChainWriter writer{active_->dma(), chain_, sizeof(VsockHeader)};
    std::size_t left = std::min<std::size_t>(connection.stream.credit(), most_data);
    while (left != 0 && !writer.room().empty()) {
        const std::size_t got = connection.socket->read(
            writer.room().first(std::min(writer.room().size(), left)));
        if (got == 0) break;
        writer.wrote(got);
        left -= got;
    }
    std::optional<VsockHeader> header;
    if (writer.written() != 0) header = connection.stream.data(writer.written());
    if (connection.socket->input_ended()) connection.stream.host_sent_all();
    totals_.to_guest_bytes += writer.written();
    return header;
}

void Vsock::give_event()
{
    Queue* queue = active_ == nullptr ? nullptr : active_->queue(event_queue);
    if (queue == nullptr || !reset_pending_ || !queue->pop(chain_)) return;
    if (chain_.writable_size() < sizeof(VsockEvent)) {
        queue->push(chain_, 0);
        return queue->broken("a buffer has no room for an event");
    }
    reset_pending_ = false;
    const VsockEvent event{VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
    ChainWriter writer{active_->dma(), chain_};
    writer.write(std::as_bytes(std::span{&event, 1}));
    queue->push(chain_, writer.written());
    queue->signal();
}

base::Result<void> Vsock::load(const base::StateReader&, std::string_view)
{
    reset_pending_ = true;
    return {};
}

void Vsock::counters(base::CounterList& list, std::string_view prefix) const
{
    const std::string name{prefix};
    list.add(name + ".streams", totals_.streams);
    list.add(name + ".refused", totals_.refused);
    list.add(name + ".dropped", totals_.dropped);
    list.add(name + ".to_host_bytes", totals_.to_host_bytes);
    list.add(name + ".to_guest_bytes", totals_.to_guest_bytes);
}

}  // namespace doppel::devices::virtio
