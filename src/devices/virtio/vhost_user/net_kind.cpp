#include "devices/virtio/vhost_user/net_kind.h"

namespace doppel::devices::virtio {

VhostUserNet::VhostUserNet(const std::array<std::uint8_t, 6>& mac,
                           std::optional<std::uint16_t> mtu)
{
    config_.mac = mac;
    config_.status = VIRTIO_NET_S_LINK_UP;
    config_.max_virtqueue_pairs = 1;
    config_.mtu = mtu.value_or(0);
}

const Identity& VhostUserNet::identity() const
{
    static constexpr std::array<std::uint16_t, 2> queues{256, 256};
    static constexpr Identity identity{DeviceId::network, "vhost_user_net", 0x020000, queues};
    return identity;
}

Features VhostUserNet::passed_on() const
{
    return VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 |
           VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_HOST_TSO4 |
           VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_MRG_RXBUF;
}

Features VhostUserNet::own_features() const
{
    return VIRTIO_NET_F_MAC | VIRTIO_NET_F_STATUS |
           (config_.mtu != 0 ? VIRTIO_NET_F_MTU : Features{0});
}

}  // namespace doppel::devices::virtio
