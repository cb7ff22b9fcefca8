// The control queue. Virtio 1.2, section 5.1.6.5.
#include "devices/virtio/net/net.h"

namespace doppel::devices::virtio {

namespace {

// A table of addresses as long as the largest queue; more is nonsense.
constexpr std::uint32_t most_addresses = queue_size_max;

}  // namespace

void Net::control(unsigned index) noexcept
{
    Queue& queue = *active_->queue(index);
    unsigned chains = 0;
    while (chains < chains_at_once && queue.pop(chain_)) {
        ++chains;
        if (chain_.writable_size() == 0) {
            queue.push(chain_, 0);
            return queue.broken("a command has no room for its answer");
        }
        ChainReader command{chain_};
        const std::uint8_t answer = carry_out(command) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
        ChainWriter writer{active_->dma(), chain_};
        writer.write(std::as_bytes(std::span{&answer, 1}));
        queue.push(chain_, writer.written());
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

bool Net::carry_out(ChainReader& command)
{
    NetControl code{};
    std::uint8_t flag = 0;
    if (!command.read_value(code)) return false;
    State state = state_;
    switch (code) {
    case NetControl::VIRTIO_NET_CTRL_RX_PROMISC:
    case NetControl::VIRTIO_NET_CTRL_RX_ALLMULTI:
    case NetControl::VIRTIO_NET_CTRL_RX_ALLUNI:
    case NetControl::VIRTIO_NET_CTRL_RX_NOMULTI:
    case NetControl::VIRTIO_NET_CTRL_RX_NOUNI:
    case NetControl::VIRTIO_NET_CTRL_RX_NOBCAST:
        // Filtering is best effort, and this device makes none.
        return command.read_value(flag);
    case NetControl::VIRTIO_NET_CTRL_MAC_TABLE_SET: return set_mac_table(command);
    case NetControl::VIRTIO_NET_CTRL_MAC_ADDR_SET:
        if (!command.read_value(state.mac)) return false;
        set_state(state);
        listener_->config_changed();
        return true;
    case NetControl::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
        if (!has(VIRTIO_NET_F_MQ) || !command.read_value(state.pairs) || state.pairs == 0 ||
            state.pairs > properties_.queues) {
            return false;
        }
        break;
    case NetControl::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET:
        if (!has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || !command.read_value(state.guest_offloads) ||
            (state.guest_offloads & ~negotiated_offloads()) != 0) {
            return false;
        }
        state.offloads_set = 1;
        break;
    default: return false;
    }
    set_state(state);
    apply_state();
    return true;
}

bool Net::set_mac_table(ChainReader& command) const
{
    for (int table = 0; table < 2; ++table) {  // of single addresses, and of groups
        std::uint32_t count = 0;
        if (!command.read_value(count) || count > most_addresses) return false;
        std::array<std::uint8_t, 6> address{};
        for (std::uint32_t i = 0; i < count; ++i) {
            if (!command.read_value(address)) return false;
        }
    }
    return true;
}

}  // namespace doppel::devices::virtio
