// What a network card and its driver exchange. Virtio 1.2, sections 5.1.3 to 5.1.6.
#pragma once

#include <array>
#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

inline constexpr Features VIRTIO_NET_F_CSUM = 1 << 0, VIRTIO_NET_F_GUEST_CSUM = 1 << 1,
                          VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 1 << 2, VIRTIO_NET_F_MTU = 1 << 3,
                          VIRTIO_NET_F_MAC = 1 << 5, VIRTIO_NET_F_GUEST_TSO4 = 1 << 7,
                          VIRTIO_NET_F_GUEST_TSO6 = 1 << 8, VIRTIO_NET_F_GUEST_ECN = 1 << 9,
                          VIRTIO_NET_F_HOST_TSO4 = 1 << 11, VIRTIO_NET_F_HOST_TSO6 = 1 << 12,
                          VIRTIO_NET_F_HOST_ECN = 1 << 13, VIRTIO_NET_F_MRG_RXBUF = 1 << 15,
                          VIRTIO_NET_F_STATUS = 1 << 16, VIRTIO_NET_F_CTRL_VQ = 1 << 17,
                          VIRTIO_NET_F_CTRL_RX = 1 << 18, VIRTIO_NET_F_CTRL_RX_EXTRA = 1 << 20,
                          VIRTIO_NET_F_MQ = 1 << 22, VIRTIO_NET_F_CTRL_MAC_ADDR = 1 << 23;

inline constexpr std::uint16_t VIRTIO_NET_S_LINK_UP = 1;

struct NetConfig {
    std::array<std::uint8_t, 6> mac;
    std::uint16_t status;
    std::uint16_t max_virtqueue_pairs;
    std::uint16_t mtu;
};
static_assert(sizeof(NetConfig) == 12);

// Section 5.1.6.5: the first two bytes of a command; the answer is one byte.
enum class NetControl : std::uint16_t {  // class, and command in the upper half
    VIRTIO_NET_CTRL_RX_PROMISC = 0x0000,
    VIRTIO_NET_CTRL_RX_ALLMULTI = 0x0100,
    VIRTIO_NET_CTRL_RX_ALLUNI = 0x0200,
    VIRTIO_NET_CTRL_RX_NOMULTI = 0x0300,
    VIRTIO_NET_CTRL_RX_NOUNI = 0x0400,
    VIRTIO_NET_CTRL_RX_NOBCAST = 0x0500,
    VIRTIO_NET_CTRL_MAC_TABLE_SET = 0x0001,
    VIRTIO_NET_CTRL_MAC_ADDR_SET = 0x0101,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0x0004,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0x0005,
};
inline constexpr std::uint8_t VIRTIO_NET_OK = 0, VIRTIO_NET_ERR = 1;

}  // namespace doppel::devices::virtio
