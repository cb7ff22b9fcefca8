#include "backends/net/frame.h"

#include <cstring>

#include "base/bytes.h"

namespace doppel::backends {

namespace {

bool settle_segments(const Frame& frame, const Offloads& allowed)
{
    const OffloadHeader& header = frame.header;
    const auto type = static_cast<std::uint8_t>(header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN);
    const bool ecn = (header.gso_type & VIRTIO_NET_HDR_GSO_ECN) != 0;
    const bool known = (type == VIRTIO_NET_HDR_GSO_TCPV4 && allowed.tso4) ||
                       (type == VIRTIO_NET_HDR_GSO_TCPV6 && allowed.tso6);
    return known && (!ecn || allowed.ecn) && header.gso_size != 0 &&
           (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 &&
           header.hdr_len <= frame.bytes.size();
}

}  // namespace

bool settle(Frame& frame, const Offloads& allowed)
{
    const std::size_t size = frame.bytes.size();
    if (size < ethernet_header_bytes || size > most_frame_bytes) return false;
    OffloadHeader& header = frame.header;
    header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
    if (!allowed.checksum) header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
    if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
        const std::size_t end = std::size_t{header.csum_start} + header.csum_offset + 2;
        if (!allowed.checksum || end > size) return false;
    } else {
        header.csum_start = header.csum_offset = 0;
    }
    if (header.gso_type != VIRTIO_NET_HDR_GSO_NONE) return settle_segments(frame, allowed);
    header.gso_size = header.hdr_len = 0;
    return true;
}

std::uint16_t internet_sum(std::span<const std::byte> bytes)
{
    // 32 bits at a time into 64: the sum of words is the same modulo 2^16 - 1, in any order of
    // bytes as long as it is one.
    std::uint64_t sum = 0;
    while (bytes.size() >= 4) {
        sum += base::load_le<std::uint32_t>(bytes.data());
        bytes = bytes.subspan(4);
    }
    std::uint32_t rest = 0;
    std::memcpy(&rest, bytes.data(), bytes.size());
    sum += rest;
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return __builtin_bswap16(static_cast<std::uint16_t>(sum));
}

void finish_checksum(Frame& frame)
{
    OffloadHeader& header = frame.header;
    if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0) return;
    // The field holds the sum of the pseudo header already.
    const auto sum = static_cast<std::uint16_t>(~internet_sum(frame.bytes.subspan(header.csum_start)));
    // Zero would mean "no checksum" in UDP; the complement is the same number.
    const std::uint16_t value = sum == 0 ? std::uint16_t{0xffff} : sum;
    base::store_le(frame.bytes.data() + header.csum_start + header.csum_offset,
                   __builtin_bswap16(value));
    header.flags = VIRTIO_NET_HDR_F_DATA_VALID;
    header.csum_start = header.csum_offset = 0;
}

}  // namespace doppel::backends
