// Numbers of the Virtio 1.2 specification, in its spelling.
#pragma once

#include <cstdint>

namespace doppel::devices::virtio {

// Section 5.
enum class DeviceId : std::uint16_t {
    network = 1,
    block = 2,
    console = 3,
    entropy = 4,
    balloon = 5,
    scsi_host = 8,
    socket = 19,
    file_system = 26,
    persistent_memory = 27,
};

// Section 2.1, device status. FAILED is the driver's; the others in the order they are set.
namespace status {
inline constexpr std::uint8_t ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8,
                              DEVICE_NEEDS_RESET = 64, FAILED = 128;
}

// Section 6, reserved feature bits, as masks.
using Features = std::uint64_t;
inline constexpr Features VIRTIO_F_NOTIFY_ON_EMPTY = Features{1} << 24;  // legacy, section 6.3
inline constexpr Features VIRTIO_F_ANY_LAYOUT = Features{1} << 27;       // legacy, section 6.3
inline constexpr Features VIRTIO_F_INDIRECT_DESC = Features{1} << 28;
inline constexpr Features VIRTIO_F_EVENT_IDX = Features{1} << 29;
inline constexpr Features VIRTIO_F_VERSION_1 = Features{1} << 32;
inline constexpr Features VIRTIO_F_ACCESS_PLATFORM = Features{1} << 33;
inline constexpr Features VIRTIO_F_RING_PACKED = Features{1} << 34;
inline constexpr Features VIRTIO_F_RING_RESET = Features{1} << 40;

inline constexpr std::uint16_t VIRTIO_MSI_NO_VECTOR = 0xffff;

// Section 2.6: the largest ring there is. Split rings have a power of two.
inline constexpr std::uint16_t queue_size_max = 32768;

}  // namespace doppel::devices::virtio
