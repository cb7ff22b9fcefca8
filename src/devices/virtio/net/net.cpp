#include "devices/virtio/net/net.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace doppel::devices::virtio {

using backends::Frame;
using backends::Handed;
using backends::OffloadHeader;

namespace {

constexpr std::uint16_t ring_size = 256, control_ring_size = 64;
constexpr Features all_guest_offloads = VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 |
                                        VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN;

Features when(bool condition, Features feature) { return condition ? feature : 0; }

Features guest_features(const backends::Offloads& offloads)
{
    return when(offloads.checksum, VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
           when(offloads.tso4, VIRTIO_NET_F_GUEST_TSO4) |
           when(offloads.tso6, VIRTIO_NET_F_GUEST_TSO6) |
           when(offloads.ecn, VIRTIO_NET_F_GUEST_ECN);
}

Features host_features(const backends::Offloads& offloads)
{
    return when(offloads.checksum, VIRTIO_NET_F_CSUM) |
           when(offloads.tso4, VIRTIO_NET_F_HOST_TSO4) |
           when(offloads.tso6, VIRTIO_NET_F_HOST_TSO6) |
           when(offloads.ecn, VIRTIO_NET_F_HOST_ECN);
}

// Section 5.1.3.1: large segments are nothing without checksums.
backends::Offloads offloads(bool checksum, bool tso4, bool tso6, bool ecn)
{
    return {checksum, checksum && tso4, checksum && tso6, checksum && ecn};
}

unsigned pair_of(unsigned queue) { return queue / 2; }
unsigned receive_queue(unsigned pair) { return 2 * pair; }
unsigned transmit_queue(unsigned pair) { return 2 * pair + 1; }

}  // namespace

Net::Net(std::unique_ptr<backends::NetBackend> backend, const Options& options)
    : backend_(std::move(backend)),
      properties_(backend_->properties()),
      options_(options),
      queue_sizes_(std::size_t{2} * properties_.queues, ring_size)
{
    ASSERT(properties_.queues >= 1 && properties_.queues <= backends::most_net_queues);
    queue_sizes_.push_back(control_ring_size);
    identity_ = {DeviceId::network, "net", 0x020000, queue_sizes_};
    frame_.resize(backends::most_frame_bytes);
    config_.max_virtqueue_pairs = static_cast<std::uint16_t>(properties_.queues);
    config_.mtu = properties_.mtu;
    config_.status = backend_->link_up() ? VIRTIO_NET_S_LINK_UP : std::uint16_t{0};
    set_state(initial_state());
    backend_->attach(*this);
}

Features Net::features() const
{
    return VIRTIO_NET_F_MAC | VIRTIO_NET_F_MTU | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_MRG_RXBUF |
           VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA |
           VIRTIO_NET_F_CTRL_MAC_ADDR | when(properties_.queues > 1, VIRTIO_NET_F_MQ) |
           host_features(properties_.from_guest) | guest_features(properties_.to_guest);
}

std::span<const std::byte> Net::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

// Drivers of before Virtio 1.0 set the address this way.
void Net::write_config(std::size_t offset, std::span<const std::byte> data) noexcept
{
    const bool legacy = active_ == nullptr || !has(VIRTIO_F_VERSION_1);
    if (!legacy || offset + data.size() > state_.mac.size()) return;
    std::memcpy(state_.mac.data() + offset, data.data(), data.size());
    config_.mac = state_.mac;
}

Net::State Net::initial_state() const
{
    State state{};
    state.mac = options_.mac;
    state.pairs = 1;
    return state;
}

void Net::set_state(const State& state)
{
    state_ = state;
    config_.mac = state.mac;
}

Features Net::negotiated_offloads() const
{
    return active_->features() & all_guest_offloads;
}

void Net::apply_state()
{
    const Features wanted = state_.offloads_set != 0
                                ? state_.guest_offloads & negotiated_offloads()
                                : negotiated_offloads();
    backend_->set_offloads(offloads((wanted & VIRTIO_NET_F_GUEST_CSUM) != 0,
                                    (wanted & VIRTIO_NET_F_GUEST_TSO4) != 0,
                                    (wanted & VIRTIO_NET_F_GUEST_TSO6) != 0,
                                    (wanted & VIRTIO_NET_F_GUEST_ECN) != 0));
    backend_->set_queues(state_.pairs);
}

std::size_t Net::header_size() const
{
    // num_buffers is there since Virtio 1.0, and before that for those who asked for it.
    return has(VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) ? 12 : 10;
}

void Net::activate(Active& active) noexcept
{
    active_ = &active;
    apply_state();
    for (unsigned pair = 0; pair < properties_.queues; ++pair) backend_->resume(pair);
}

void Net::deactivate() noexcept
{
    active_ = nullptr;
    set_state(initial_state());
    too_few_ = {};
    backend_->set_offloads({});
    backend_->set_queues(1);
    // Frames that waited for buffers go nowhere now.
    for (unsigned pair = 0; pair < properties_.queues; ++pair) backend_->resume(pair);
}

void Net::process(unsigned queue) noexcept
{
    // Without VIRTIO_NET_F_MQ there is one pair, and control comes right behind it.
    const unsigned control_queue = has(VIRTIO_NET_F_MQ) ? 2 * properties_.queues : 2;
    if (queue == control_queue) return control(queue);
    if (queue > control_queue) return;
    if (queue == receive_queue(pair_of(queue))) return backend_->resume(pair_of(queue));
    transmit(pair_of(queue));
}

void Net::transmit(unsigned pair) noexcept
{
    Queue& queue = *active_->queue(transmit_queue(pair));
    unsigned chains = 0;
    while (chains < chains_at_once && queue.pop(chain_)) {
        if (!send(pair)) {
            queue.unpop(chain_);
            break;
        }
        ++chains;
        queue.push(chain_, 0);
    }
    backend_->flush(pair);
    queue.signal();
    if (chains == chains_at_once) active_->ring(transmit_queue(pair));
}

bool Net::send(unsigned pair)
{
    // The guest may change its buffers meanwhile: what is checked and sent is the copy.
    Frame frame;
    std::uint16_t unused = 0;
    ChainReader reader{chain_};
    const std::size_t body = chain_.readable_size() - std::min<std::size_t>(
                                                          header_size(), chain_.readable_size());
    const bool readable = reader.read_value(frame.header) &&
                          (header_size() == 10 || reader.read_value(unused)) &&
                          body <= frame_.size();
    if (readable) frame.bytes = std::span{frame_}.first(reader.read(std::span{frame_}.first(body)));
    const auto allowed = offloads(has(VIRTIO_NET_F_CSUM), has(VIRTIO_NET_F_HOST_TSO4),
                                  has(VIRTIO_NET_F_HOST_TSO6), has(VIRTIO_NET_F_HOST_ECN));
    // DATA_VALID is nothing that a driver may say.
    frame.header.flags &= backends::VIRTIO_NET_HDR_F_NEEDS_CSUM;
    if (!readable || !backends::settle(frame, allowed)) {
        sent_.dropped.fetch_add(1, std::memory_order_relaxed);
        return true;
    }
    const std::size_t size = frame.bytes.size();
    if (backend_->send(pair, frame) == Handed::wait) return false;
    sent_.frames.fetch_add(1, std::memory_order_relaxed);
    sent_.bytes.fetch_add(size, std::memory_order_relaxed);
    return true;
}

void Net::writable(unsigned pair) noexcept
{
    if (active_ != nullptr) active_->ring(transmit_queue(pair));
}

Handed Net::receive(unsigned pair, Frame& frame) noexcept
{
    Queue* queue = active_ == nullptr ? nullptr : active_->queue(receive_queue(pair));
    if (queue == nullptr) {
        received_.dropped.fetch_add(1, std::memory_order_relaxed);
        return Handed::yes;
    }
    const std::size_t bytes = header_size() + frame.bytes.size();
    const std::size_t buffers = collect(*queue, pair, bytes);
    if (buffers == 0) return Handed::wait;
    std::size_t room = 0;
    for (std::size_t i = 0; i < buffers; ++i) room += buffers_[i].writable_size();
    if (room < bytes) {
        for (std::size_t i = buffers; i-- > 0;) queue->unpop(buffers_[i]);
        received_.dropped.fetch_add(1, std::memory_order_relaxed);
        return Handed::yes;
    }
    deliver(*queue, buffers, frame);
    received_.frames.fetch_add(1, std::memory_order_relaxed);
    received_.bytes.fetch_add(frame.bytes.size(), std::memory_order_relaxed);
    return Handed::yes;
}

std::size_t Net::collect(Queue& queue, unsigned pair, std::size_t bytes)
{
    std::size_t count = 0, room = 0;
    for (;;) {
        if (buffers_.size() == count) buffers_.emplace_back();
        Chain& buffer = buffers_[count];
        if (!queue.pop(buffer)) break;
        ++count;
        room += buffer.writable_size();
        if (count == 1 && room < header_size()) {
            queue.push(buffer, 0);
            queue.broken("a receive buffer has no room for the header");
            return 0;
        }
        if (room >= bytes || !has(VIRTIO_NET_F_MRG_RXBUF)) {
            too_few_[pair] = 0;
            return count;
        }
    }
    // The driver rang, and all its buffers are still not enough: they never will be.
    if (count != 0 && std::exchange(too_few_[pair], count) == count) return count;
    for (std::size_t i = count; i-- > 0;) queue.unpop(buffers_[i]);
    return 0;
}

void Net::deliver(Queue& queue, std::size_t buffers, const Frame& frame)
{
    std::array<std::byte, 12> header{};
    base::store_le(header.data(), frame.header);
    base::store_le(header.data() + 10, static_cast<std::uint16_t>(buffers));
    std::span<const std::byte> rest = frame.bytes;
    for (std::size_t i = 0; i < buffers; ++i) {
        ChainWriter writer{active_->dma(), buffers_[i]};
        if (i == 0) writer.write(std::span{header}.first(header_size()));
        rest = rest.subspan(writer.write(rest));
        queue.fill(buffers_[i], writer.written());
    }
    queue.publish();
}

void Net::received(unsigned pair) noexcept
{
    Queue* queue = active_ == nullptr ? nullptr : active_->queue(receive_queue(pair));
    if (queue != nullptr) queue->signal();
}

void Net::link_changed(bool up) noexcept
{
    config_.status = up ? VIRTIO_NET_S_LINK_UP : std::uint16_t{0};
    if (listener_ != nullptr) listener_->config_changed();
}

void Net::save(base::StateWriter& writer, std::string_view section) const
{
    writer.section(section, 1, state_);
}

base::Result<void> Net::load(const base::StateReader& reader, std::string_view section)
{
    const State state = TRY(reader.section_as<State>(section, 1));
    if (state.pairs == 0 || state.pairs > properties_.queues || state.offloads_set > 1 ||
        (state.guest_offloads & ~all_guest_offloads) != 0) {
        return base::io_error("Saved state of '" + std::string{section} + "' is impossible");
    }
    set_state(state);
    return {};
}

void Net::counters(base::CounterList& list, std::string_view prefix) const
{
    const auto add = [&](std::string_view name, const Totals& totals) {
        const std::string front = std::string{prefix} + "." + std::string{name} + ".";
        list.add(front + "frames", totals.frames);
        list.add(front + "bytes", totals.bytes);
        list.add(front + "dropped", totals.dropped);
    };
    add("sent", sent_);
    add("received", received_);
    backend_->counters(list, prefix);
}

}  // namespace doppel::devices::virtio
