// What a console device and its driver exchange. Virtio 1.2, section 5.3.
#pragma once

#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

inline constexpr Features VIRTIO_CONSOLE_F_MULTIPORT = 1 << 1, VIRTIO_CONSOLE_F_EMERG_WRITE = 1 << 2;

struct ConsoleConfig {
    std::uint16_t cols, rows;  // VIRTIO_CONSOLE_F_SIZE, not offered
    std::uint32_t max_nr_ports;
    std::uint32_t emerg_wr;
};
static_assert(sizeof(ConsoleConfig) == 12);

enum class ConsoleEvent : std::uint16_t {
    VIRTIO_CONSOLE_DEVICE_READY = 0,
    VIRTIO_CONSOLE_DEVICE_ADD = 1,
    VIRTIO_CONSOLE_DEVICE_REMOVE = 2,
    VIRTIO_CONSOLE_PORT_READY = 3,
    VIRTIO_CONSOLE_CONSOLE_PORT = 4,
    VIRTIO_CONSOLE_RESIZE = 5,
    VIRTIO_CONSOLE_PORT_OPEN = 6,
    VIRTIO_CONSOLE_PORT_NAME = 7,
};

struct ConsoleControl {
    std::uint32_t id;  // of the port
    ConsoleEvent event;
    std::uint16_t value;
};
static_assert(sizeof(ConsoleControl) == 8);

}  // namespace doppel::devices::virtio
