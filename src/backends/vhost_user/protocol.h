// What a vhost-user front end and back end send each other over their socket, byte for byte. Source:
// QEMU's "Vhost-user Protocol" (docs/interop/vhost-user). Numbers are in the host's order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace doppel::backends::vhost_user {

enum class Request : std::uint32_t {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};

struct Header {
    std::uint32_t request;
    std::uint32_t flags;
    std::uint32_t size;  // of what follows
};
static_assert(sizeof(Header) == 12);
inline constexpr std::uint32_t flag_version = 1, flag_version_mask = 3, flag_reply = 4,
                               flag_need_reply = 8;

// Beside the virtio device's own bits.
inline constexpr std::uint64_t VHOST_USER_F_PROTOCOL_FEATURES = 1 << 30;

inline constexpr std::uint64_t VHOST_USER_PROTOCOL_F_MQ = 1 << 0,
                               VHOST_USER_PROTOCOL_F_REPLY_ACK = 1 << 3,
                               VHOST_USER_PROTOCOL_F_CONFIG = 1 << 9;

struct VringState {
    std::uint32_t index;
    std::uint32_t value;
};
static_assert(sizeof(VringState) == 8);

// Addresses are the front end's, as the memory table has them.
struct VringAddress {
    std::uint32_t index;
    std::uint32_t flags;
    std::uint64_t descriptors, used, available, log;
};
static_assert(sizeof(VringAddress) == 40);

struct MemoryRegion {
    std::uint64_t gpa;
    std::uint64_t size;
    std::uint64_t user;    // the front end's address
    std::uint64_t offset;  // in the descriptor that comes with it
};
static_assert(sizeof(MemoryRegion) == 32);

inline constexpr std::size_t most_regions = 8;
struct MemoryTable {
    std::uint32_t count;
    std::uint32_t padding;
    std::array<MemoryRegion, most_regions> regions;
};
static_assert(sizeof(MemoryTable) == 8 + 8 * 32);

inline constexpr std::size_t most_config_bytes = 256;
struct ConfigHeader {
    std::uint32_t offset;
    std::uint32_t size;
    std::uint32_t flags;
};
static_assert(sizeof(ConfigHeader) == 12);

// The largest message that a back end may send.
inline constexpr std::size_t most_payload_bytes = sizeof(ConfigHeader) + most_config_bytes;

}  // namespace doppel::backends::vhost_user
