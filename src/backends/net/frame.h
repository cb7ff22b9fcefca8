// An Ethernet frame between a guest and a network, with what its sender has left to do.
// Virtio 1.2, section 5.1.6; Linux's tap devices speak of the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace doppel::backends {

inline constexpr std::uint8_t VIRTIO_NET_HDR_F_NEEDS_CSUM = 1, VIRTIO_NET_HDR_F_DATA_VALID = 2;
inline constexpr std::uint8_t VIRTIO_NET_HDR_GSO_NONE = 0, VIRTIO_NET_HDR_GSO_TCPV4 = 1,
                              VIRTIO_NET_HDR_GSO_UDP = 3, VIRTIO_NET_HDR_GSO_TCPV6 = 4,
                              VIRTIO_NET_HDR_GSO_ECN = 0x80;

// struct virtio_net_hdr without num_buffers, which only a device needs.
struct OffloadHeader {
    std::uint8_t flags;
    std::uint8_t gso_type;
    std::uint16_t hdr_len;    // a hint: bytes in front of the payload to be cut
    std::uint16_t gso_size;   // bytes of payload in each frame that it is to be cut into
    std::uint16_t csum_start, csum_offset;  // checksum from there to the end goes to start + offset
    bool operator==(const OffloadHeader&) const = default;
};
static_assert(sizeof(OffloadHeader) == 10);

// What a side can have left to it.
struct Offloads {
    bool checksum = false;
    bool tso4 = false, tso6 = false, ecn = false;  // only with checksum
    bool operator==(const Offloads&) const = default;
};

// Ethernet header with a VLAN tag, and the largest IP packet.
inline constexpr std::size_t ethernet_header_bytes = 14;
inline constexpr std::size_t most_frame_bytes = ethernet_header_bytes + 4 + 65535;

struct Frame {
    OffloadHeader header{};
    std::span<std::byte> bytes;  // whoever gets the frame may change them
};

// Is that a frame with a header that means something, and nothing left to do that is not in
// `allowed`? Flags of no meaning are cleared.
[[nodiscard]] bool settle(Frame& frame, const Offloads& allowed);

// The Internet checksum's sum (RFC 1071) in host order, not complemented.
[[nodiscard]] std::uint16_t internet_sum(std::span<const std::byte> bytes);
// Does what VIRTIO_NET_HDR_F_NEEDS_CSUM asks for; the frame was settled.
void finish_checksum(Frame& frame);

}  // namespace doppel::backends
