// What a socket device and its driver exchange. Virtio 1.2, section 5.10.
#pragma once

#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

inline constexpr Features VIRTIO_VSOCK_F_STREAM = 1 << 0;

inline constexpr std::uint64_t host_cid = 2;

struct VsockConfig {
    std::uint64_t guest_cid;
};
static_assert(sizeof(VsockConfig) == 8);

inline constexpr std::uint16_t VIRTIO_VSOCK_TYPE_STREAM = 1;

enum class VsockOp : std::uint16_t {
    VIRTIO_VSOCK_OP_INVALID = 0,
    VIRTIO_VSOCK_OP_REQUEST = 1,
    VIRTIO_VSOCK_OP_RESPONSE = 2,
    VIRTIO_VSOCK_OP_RST = 3,
    VIRTIO_VSOCK_OP_SHUTDOWN = 4,
    VIRTIO_VSOCK_OP_RW = 5,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7,
};

// Flags of VIRTIO_VSOCK_OP_SHUTDOWN: what its sender does no more.
inline constexpr std::uint32_t VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE = 1, VIRTIO_VSOCK_SHUTDOWN_F_SEND = 2,
                               vsock_shutdown_both = 3;

#pragma pack(push, 4)
struct VsockHeader {
    std::uint64_t src_cid, dst_cid;
    std::uint32_t src_port, dst_port;
    std::uint32_t len;  // of the data behind it
    std::uint16_t type;
    VsockOp op;
    std::uint32_t flags;
    std::uint32_t buf_alloc, fwd_cnt;  // of its sender: bytes of buffer, bytes taken out of it
};
#pragma pack(pop)
static_assert(sizeof(VsockHeader) == 44);

inline constexpr std::uint32_t VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0;

struct VsockEvent {
    std::uint32_t id;
};
static_assert(sizeof(VsockEvent) == 4);

}  // namespace doppel::devices::virtio
