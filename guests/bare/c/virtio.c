#include "virtio.h"

#include "machine.h"

enum {
    mmio_first = 0xfeb00000,
    mmio_size = 0x1000,
    mmio_magic = 0x74726976,
    red_hat = 0x1af4,
    first_modern_id = 0x1040,
};

/* Section 4.2.2. */
enum mmio_register {
    mmio_magic_value = 0x000,
    mmio_device_id = 0x008,
    mmio_device_features = 0x010,
    mmio_device_features_sel = 0x014,
    mmio_driver_features = 0x020,
    mmio_driver_features_sel = 0x024,
    mmio_queue_sel = 0x030,
    mmio_queue_num_max = 0x034,
    mmio_queue_num = 0x038,
    mmio_queue_ready = 0x044,
    mmio_queue_notify = 0x050,
    mmio_interrupt_status = 0x060,
    mmio_status = 0x070,
    mmio_queue_desc = 0x080,
    mmio_queue_driver = 0x090,
    mmio_queue_device = 0x0a0,
    mmio_config = 0x100,
};

uint32_t pci_read(uint16_t function, uint32_t offset)
{
    out32(0xcf8, 0x80000000u | (uint32_t)function << 8 | (offset & 0xfc));
    return in32(0xcfc);
}

void pci_write(uint16_t function, uint32_t offset, uint32_t value)
{
    out32(0xcf8, 0x80000000u | (uint32_t)function << 8 | (offset & 0xfc));
    out32(0xcfc, value);
}

static void find_windows(struct device *device)
{
    device->command = pci_read(device->function, 4) & 0xffff;
    pci_write(device->function, 4, 0);
    for (uint32_t i = 0; i < bar_count; ++i) {
        const uint32_t at = 0x10 + 4 * i;
        const uint32_t value = pci_read(device->function, at);
        device->saved[i] = value;
        pci_write(device->function, at, 0xffffffff);
        const uint32_t sized = pci_read(device->function, at);
        pci_write(device->function, at, value);
        struct window *window = &device->windows[i];
        window->is_port = value & 1;
        const uint32_t bits = sized & (window->is_port ? 0xfffcu : 0xfffffff0u);
        /* The upper half of the one before has no low bits to tell. */
        if (bits == 0 || (i != 0 && (device->saved[i - 1] & 7) == 4)) continue;
        window->size = bits & -bits;
        window->address = value & (window->is_port ? ~3u : ~15u);
    }
    pci_write(device->function, 4, device->command);
}

static void find_capabilities(struct device *device)
{
    const uint16_t f = device->function;
    uint32_t at = pci_read(f, 0x34) & 0xfc;
    device->msix_bar = bar_count;
    for (unsigned count = 0; at != 0 && count < 48; ++count) {
        const uint32_t head = pci_read(f, at);
        const uint32_t bar = pci_read(f, at + 4) & 0xff;
        const uint32_t address =
            bar < bar_count ? device->windows[bar].address + pci_read(f, at + 8) : 0;
        if ((head & 0xff) == 0x11) device->msix_bar = bar & 7;
        if ((head & 0xff) == 9) {
            switch (head >> 24) {
            case 1: device->common = address; break;
            case 2:
                device->notify = address;
                device->notify_multiplier = pci_read(f, at + 16);
                break;
            case 3: device->isr = address; break;
            case 4: device->config = address; break;
            case 5: device->window_at = (uint16_t)at; break;
            default: break;
            }
        }
        at = head >> 8 & 0xfc;
    }
}

static uint32_t find_pci(struct device *devices, uint32_t count)
{
    for (uint32_t function = 0; function < 256 && count < most_devices; ++function) {
        const uint32_t id = pci_read((uint16_t)function, 0);
        if ((id & 0xffff) != red_hat) continue;
        struct device *device = &devices[count];
        device->is_pci = 1;
        device->function = (uint16_t)function;
        /* Of transitional devices the subsystem has the type. */
        device->type = id >> 16 >= first_modern_id
                           ? (id >> 16) - first_modern_id
                           : pci_read((uint16_t)function, 0x2c) >> 16;
        find_windows(device);
        find_capabilities(device);
        if (device->common != 0 && device->notify != 0) ++count;
    }
    return count;
}

static uint32_t find_mmio(struct device *devices, uint32_t count)
{
    uint32_t address = (uint32_t)mmio_first;
    while (count < most_devices && *dword_at(address) == mmio_magic) {
        struct device *device = &devices[count++];
        device->type = *dword_at(address + mmio_device_id);
        device->windows[0].address = address;
        device->windows[0].size = 0x200;
        device->msix_bar = bar_count;
        device->isr = address + mmio_interrupt_status;
        device->config = address + mmio_config;
        address += mmio_size;
    }
    return count;
}

uint32_t find_devices(struct device *devices)
{
    return find_mmio(devices, find_pci(devices, 0));
}

void restore_bars(const struct device *device)
{
    if (!device->is_pci) return;
    for (uint32_t i = 0; i < bar_count; ++i) {
        pci_write(device->function, 0x10 + 4 * i, device->saved[i]);
    }
    pci_write(device->function, 4, device->command);
}

/* Of MMIO devices. */
static volatile uint32_t *mmio(const struct device *device, uint32_t offset)
{
    return dword_at(device->windows[0].address + offset);
}

void set_status(const struct device *device, uint8_t status)
{
    if (device->is_pci) {
        *byte_at(device->common + common_status) = status;
    } else {
        *mmio(device, mmio_status) = status;
    }
}

uint8_t get_status(const struct device *device)
{
    return device->is_pci ? *byte_at(device->common + common_status)
                          : (uint8_t)*mmio(device, mmio_status);
}

uint64_t offered_features(const struct device *device)
{
    uint64_t features = 0;
    for (uint32_t half = 0; half < 2; ++half) {
        uint32_t bits;
        if (device->is_pci) {
            *dword_at(device->common + common_device_feature_select) = half;
            bits = *dword_at(device->common + common_device_feature);
        } else {
            *mmio(device, mmio_device_features_sel) = half;
            bits = *mmio(device, mmio_device_features);
        }
        features |= (uint64_t)bits << (32 * half);
    }
    return features;
}

void accept_features(const struct device *device, uint64_t features)
{
    for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t bits = (uint32_t)(features >> (32 * half));
        if (device->is_pci) {
            *dword_at(device->common + common_driver_feature_select) = half;
            *dword_at(device->common + common_driver_feature) = bits;
        } else {
            *mmio(device, mmio_driver_features_sel) = half;
            *mmio(device, mmio_driver_features) = bits;
        }
    }
}

uint16_t largest_queue(const struct device *device, uint16_t queue)
{
    if (!device->is_pci) {
        *mmio(device, mmio_queue_sel) = queue;
        return (uint16_t)*mmio(device, mmio_queue_num_max);
    }
    if (queue >= *word_at(device->common + common_num_queues)) return 0;
    *word_at(device->common + common_queue_select) = queue;
    return *word_at(device->common + common_queue_size);
}

static void put64(volatile uint32_t *at, uint64_t value)
{
    at[0] = (uint32_t)value;
    at[1] = (uint32_t)(value >> 32);
}

void place_queue(const struct device *device, uint16_t queue, const struct queue_place *place)
{
    if (device->is_pci) {
        *word_at(device->common + common_queue_select) = queue;
        *word_at(device->common + common_queue_size) = place->size;
        *word_at(device->common + common_queue_vector) = place->vector;
        put64(dword_at(device->common + common_queue_desc), place->descriptors);
        put64(dword_at(device->common + common_queue_driver), place->driver);
        put64(dword_at(device->common + common_queue_device), place->device);
    } else {
        *mmio(device, mmio_queue_sel) = queue;
        *mmio(device, mmio_queue_num) = place->size;
        put64(mmio(device, mmio_queue_desc), place->descriptors);
        put64(mmio(device, mmio_queue_driver), place->driver);
        put64(mmio(device, mmio_queue_device), place->device);
    }
}

void enable_queue(const struct device *device, uint16_t queue)
{
    if (device->is_pci) {
        *word_at(device->common + common_queue_select) = queue;
        *word_at(device->common + common_queue_enable) = 1;
    } else {
        *mmio(device, mmio_queue_sel) = queue;
        *mmio(device, mmio_queue_ready) = 1;
    }
}

void notify(const struct device *device, uint16_t queue)
{
    if (device->is_pci) {
        *word_at(device->common + common_queue_select) = queue;
        const uint32_t at = *word_at(device->common + common_queue_notify_off);
        *word_at(device->notify + at * device->notify_multiplier) = queue;
    } else {
        *mmio(device, mmio_queue_notify) = queue;
    }
}
