/* Finds virtio devices, over PCI and at the addresses of this machine's MMIO windows, and speaks
   to their registers. Virtio 1.2, section 4. */
#pragma once

#include <stdint.h>

enum { most_devices = 48, most_queues = 64, bar_count = 6 };

enum virtio_type {
    type_net = 1,
    type_block = 2,
    type_console = 3,
    type_entropy = 4,
    type_balloon = 5,
    type_socket = 19,
};

enum virtio_status { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

#define F_INDIRECT_DESC (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)
#define F_RING_PACKED (1ull << 34)

/* Of struct virtio_pci_common_cfg. */
enum common_register {
    common_device_feature_select = 0x00,
    common_device_feature = 0x04,
    common_driver_feature_select = 0x08,
    common_driver_feature = 0x0c,
    common_config_vector = 0x10,
    common_num_queues = 0x12,
    common_status = 0x14,
    common_queue_select = 0x16,
    common_queue_size = 0x18,
    common_queue_vector = 0x1a,
    common_queue_enable = 0x1c,
    common_queue_notify_off = 0x1e,
    common_queue_desc = 0x20,
    common_queue_driver = 0x28,
    common_queue_device = 0x30,
};

/* Behind a BAR, or an MMIO window. */
struct window {
    uint32_t address, size; /* size 0: there is none */
    int is_port;
};

struct device {
    uint32_t type;       /* as in section 5 */
    int is_pci;
    uint16_t function;   /* PCI: device and function as in a configuration address, >> 8 */
    uint16_t window_at;  /* PCI: the capability for accesses through configuration space, or 0 */
    struct window windows[bar_count];  /* MMIO: the first */
    uint32_t common, isr, notify, notify_multiplier, config; /* addresses */
    uint32_t msix_bar;               /* number, or bar_count */
    uint32_t saved[bar_count], command;  /* of configuration space, when it was found */
};

uint32_t pci_read(uint16_t function, uint32_t offset);
void pci_write(uint16_t function, uint32_t offset, uint32_t value);

/* How many were found. */
uint32_t find_devices(struct device *devices);
/* Puts a PCI device's BARs and its command register back to where they were when it was found. */
void restore_bars(const struct device *device);

void set_status(const struct device *device, uint8_t status);
uint8_t get_status(const struct device *device);
uint64_t offered_features(const struct device *device);
void accept_features(const struct device *device, uint64_t features);
uint16_t largest_queue(const struct device *device, uint16_t queue); /* 0: there is none */

struct queue_place {
    uint64_t descriptors, driver, device;
    uint16_t size, vector;
};
void place_queue(const struct device *device, uint16_t queue, const struct queue_place *place);
void enable_queue(const struct device *device, uint16_t queue);
void notify(const struct device *device, uint16_t queue);
