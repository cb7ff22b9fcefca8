/* Fuzzes the virtio devices of the machine, as a driver that is mostly right and often not: random
   registers, configuration space, features, queues, descriptors, requests, resets. From its
   command line: seed=N, and steps=N, after which it passes. What it does depends on the seed, and
   on what the devices answer. */
#include "fuzz.h"
#include "machine.h"
#include "random.h"

enum { most_rings = 512, no_vector = 0xffff };

static struct device devices[most_devices];
static uint32_t device_count;
static struct {
    uint16_t first, count;  /* in rings */
    int legacy;             /* its driver is one of the legacy interface */
} queues_of[most_devices];
static struct ring rings[most_rings];
static uint32_t completed;

/* Delivery mode 0 alone: the others are no interrupt, and some would stop or restart the CPU that
   runs this. */
static uint32_t message_data(uint32_t value)
{
    return value & ~0x700u;
}

static struct ring *ring_of(uint32_t device, uint16_t queue)
{
    return &rings[queues_of[device].first + queue];
}

static uint64_t any_place(uint32_t alignment)
{
    static const uint32_t edges[] = {ram_end, 0xc0000000, 0xb0000000, 0xfee00000, 0xfffff000,
                                     data_area + data_area_size};
    if (one_in(20)) return (uint64_t)edge32() << 32 | edge32();
    if (one_in(20)) return edges[below(6)] - below(0x2000);
    const uint64_t at = ring_area + below(ring_area_size - 0x2000);
    return one_in(60) ? at : at & -(uint64_t)alignment;
}

static void place_rings(uint32_t number, uint64_t features)
{
    const struct device *device = &devices[number];
    for (uint16_t i = 0; i < queues_of[number].count; ++i) {
        struct ring *ring = ring_of(number, i);
        const uint16_t largest = largest_queue(device, i);
        /* Powers of two mostly, as split rings must have. */
        uint16_t size = (uint16_t)(1u << below(9));
        if (one_in(12)) size = (uint16_t)edge32();
        if (size > largest && !one_in(8)) size = largest;
        ring->features = features;
        ring->place = (struct queue_place){any_place(4096), any_place(64), any_place(64), size,
                                           one_in(10) ? (uint16_t)edge32() : (uint16_t)below(8)};
        place_queue(device, i, &ring->place);
        start_ring(ring);
        if (!one_in(20)) enable_queue(device, i);
    }
}

/* As section 3.1.1 has it, up to DRIVER_OK. */
static void bring_up(uint32_t number)
{
    const struct device *device = &devices[number];
    restore_bars(device);
    queues_of[number].legacy = 0;
    set_status(device, 0);
    set_status(device, ACKNOWLEDGE);
    set_status(device, ACKNOWLEDGE | DRIVER);
    const uint64_t offered = offered_features(device);
    uint64_t features = offered;
    if (one_in(2)) features &= (uint64_t)random32() << 32 | random32() | F_VERSION_1;
    if (one_in(4)) features &= ~F_RING_PACKED;
    if (one_in(40)) features ^= 1ull << below(64);
    accept_features(device, features);
    set_status(device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if ((get_status(device) & FEATURES_OK) == 0 && !one_in(4)) return;
    if (device->is_pci && device->msix_bar < bar_count && one_in(2)) {
        const uint32_t table = device->windows[device->msix_bar].address;
        for (uint32_t i = 0; i < 4; ++i) {
            dword_at(table)[4 * i] = one_in(10) ? random32() : 0xfee00000;
            dword_at(table)[4 * i + 1] = 0;
            dword_at(table)[4 * i + 2] = message_data(random32());
            dword_at(table)[4 * i + 3] = one_in(4) ? 1 : 0;
        }
    }
    place_rings(number, features);
    set_status(device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

/* Section 4.1.4.10: the queues' places are pages, their sizes the device's. */
static void bring_up_legacy(uint32_t number)
{
    const struct device *device = &devices[number];
    if (!device->is_pci || !device->windows[0].is_port) return bring_up(number);
    restore_bars(device);
    queues_of[number].legacy = 1;
    const uint16_t base = (uint16_t)device->windows[0].address;
    out8((uint16_t)(base + 18), 0);
    out8((uint16_t)(base + 18), ACKNOWLEDGE | DRIVER);
    const uint32_t features = in32(base) & (one_in(2) ? ~0u : random32());
    out32((uint16_t)(base + 4), features);
    for (uint16_t i = 0; i < queues_of[number].count; ++i) {
        struct ring *ring = ring_of(number, i);
        out16((uint16_t)(base + 14), i);
        const uint16_t size = in16((uint16_t)(base + 12));
        const uint64_t at = any_place(4096) & ~0xfffull;
        const uint64_t driver = at + 16u * size;
        ring->features = features;
        ring->place = (struct queue_place){
            at, driver, (driver + 6 + 2u * size + 4095) & ~4095ull, size, no_vector};
        start_ring(ring);
        if (!one_in(20)) out32((uint16_t)(base + 8), (uint32_t)(at >> 12));
    }
    out8((uint16_t)(base + 18), ACKNOWLEDGE | DRIVER | DRIVER_OK);
}

static void ring_the_bell(uint32_t number, uint16_t queue)
{
    const struct device *device = &devices[number];
    if (queues_of[number].legacy) {
        out16((uint16_t)(device->windows[0].address + 16), queue);
    } else {
        notify(device, queue);
    }
}

static void make_requests(uint32_t number)
{
    if (queues_of[number].count == 0) return;
    const uint16_t queue = (uint16_t)below(queues_of[number].count);
    struct ring *ring = ring_of(number, queue);
    completed += take_used(ring);
    for (uint32_t i = below(6) + 1; i > 0; --i) {
        struct request request;
        fill_request(&request, devices[number].type, queue, ring->features);
        if (!add_request(ring, &request, one_in(30))) break;
    }
    barrier();
    ring_the_bell(number, queue);
    /* A port that nothing is behind: time for the device's thread. */
    for (uint32_t i = one_in(4) ? below(100) : 0; i > 0; --i) in8(0x2f0);
    completed += take_used(ring);
}

static void spoil(uint32_t number)
{
    if (queues_of[number].count == 0) return;
    const uint16_t queue = (uint16_t)below(queues_of[number].count);
    spoil_ring(ring_of(number, queue));
    if (one_in(2)) ring_the_bell(number, queue);
}

/* What a register may be written, so that this program goes on. */
static uint32_t register_value(const struct device *device, uint32_t bar, uint32_t offset,
                               uint32_t width)
{
    const uint32_t value = edge32();
    if (device->is_pci && bar == device->msix_bar && (offset & 15) + width > 8 &&
        (offset & 15) < 12) {
        return 0x21;
    }
    return value;
}

static void access_register(uint32_t number)
{
    const struct device *device = &devices[number];
    const uint32_t bar = below(bar_count);
    const struct window *window = &device->windows[bar];
    if (window->size == 0) return;
    /* The common registers, the ISR and the beginnings of the others, mostly. */
    uint32_t offset = below(window->size);
    if (!one_in(4)) offset = (offset & ~0xfffu) + below(0x40);
    const uint32_t width = 1u << below(3);
    if (!one_in(8)) offset &= ~(width - 1);
    if (offset + width > window->size) offset = window->size - width;
    const uint32_t value = register_value(device, bar, offset, width);
    const uint32_t at = window->address + offset;
    const uint16_t port = (uint16_t)at;
    const int write = one_in(2);
    switch (width | (write ? 8u : 0) | (window->is_port ? 16u : 0)) {
    case 1: (void)*byte_at(at); break;
    case 2: (void)*word_at(at); break;
    case 4: (void)*dword_at(at); break;
    case 8 | 1: *byte_at(at) = (uint8_t)value; break;
    case 8 | 2: *word_at(at) = (uint16_t)value; break;
    case 8 | 4: *dword_at(at) = value; break;
    case 16 | 1: in8(port); break;
    case 16 | 2: in16(port); break;
    case 16 | 4: in32(port); break;
    case 24 | 1: out8(port, (uint8_t)value); break;
    case 24 | 2: out16(port, (uint16_t)value); break;
    default: out32(port, value); break;
    }
}

/* Through ports or memory, of every width; not beyond the function's own. */
static void access_config(uint32_t number)
{
    const struct device *device = &devices[number];
    if (!device->is_pci) return;
    uint32_t offset = below(one_in(10) ? 4096 : 256);
    if (one_in(3)) offset = 4 + below(0x24);
    if (device->window_at != 0 && one_in(4)) offset = device->window_at + 4 + below(16);
    const uint32_t width = 1u << below(3);
    offset &= ~(width - 1);
    /* The window may lead to a message's data. */
    const uint32_t value = message_data(edge32()) & (width == 1 ? 0xf8u : ~0u);
    const uint32_t at = 0xb0000000u + ((uint32_t)device->function << 12) + offset;
    const uint16_t port = (uint16_t)(0xcfc + (offset & 3));
    const int write = one_in(2);
    out32(0xcf8, 0x80000000u | (uint32_t)device->function << 8 | (offset & 0xfc));
    switch (width | (write ? 8u : 0) | (one_in(2) ? 16u : 0)) {
    case 1: (void)*byte_at(at); break;
    case 2: (void)*word_at(at); break;
    case 4: (void)*dword_at(at); break;
    case 8 | 1: *byte_at(at) = (uint8_t)value; break;
    case 8 | 2: *word_at(at) = (uint16_t)value; break;
    case 8 | 4: *dword_at(at) = value; break;
    case 16 | 1: in8(port); break;
    case 16 | 2: in16(port); break;
    case 16 | 4: in32(port); break;
    case 24 | 1: out8(port, (uint8_t)value); break;
    case 24 | 2: out16(port, (uint16_t)value); break;
    default: out32(port, value); break;
    }
    if (one_in(3)) restore_bars(device);
}

static void enable_msix(uint32_t number)
{
    const struct device *device = &devices[number];
    if (!device->is_pci) return;
    uint32_t at = pci_read(device->function, 0x34) & 0xfc;
    for (unsigned count = 0; at != 0 && count < 48; ++count) {
        const uint32_t head = pci_read(device->function, at);
        if ((head & 0xff) == 0x11) {
            pci_write(device->function, at, (head & 0x3fffffff) | below(4) << 30);
        }
        at = head >> 8 & 0xfc;
    }
}

static void look(uint32_t number)
{
    const struct device *device = &devices[number];
    (void)get_status(device);
    if (device->isr != 0) (void)*byte_at(device->isr);
    for (uint16_t i = 0; i < queues_of[number].count; ++i) {
        completed += take_used(ring_of(number, i));
    }
}

static void step(uint32_t number)
{
    const uint32_t what = below(100);
    if (what < 3) {
        bring_up(number);
    } else if (what < 4) {
        bring_up_legacy(number);
    } else if (what < 60) {
        make_requests(number);
    } else if (what < 64) {
        spoil(number);
    } else if (what < 78) {
        access_register(number);
    } else if (what < 84) {
        access_config(number);
    } else if (what < 85) {
        enable_msix(number);
    } else if (what < 95) {
        look(number);
    } else {
        access_legacy_device();
    }
}

static uint32_t count_queues(void)
{
    uint16_t used = 0;
    for (uint32_t i = 0; i < device_count; ++i) {
        uint16_t count = 0;
        set_status(&devices[i], 0);
        while (count < most_queues && used + count < most_rings &&
               largest_queue(&devices[i], count) != 0) {
            ++count;
        }
        queues_of[i].first = used;
        queues_of[i].count = count;
        used = (uint16_t)(used + count);
    }
    return used;
}

uint32_t guest_main(void)
{
    const uint32_t seed = option("seed=", 1), steps = option("steps=", 10000);
    seed_random(seed);
    device_count = find_devices(devices);
    print_line("devices:", device_count);
    if ((uint32_t)devices < ring_area / 2) return 2; /* in the way of small numbers */
    print_line("queues:", count_queues());
    if (device_count == 0) return 1;
    for (uint32_t i = 0; i < device_count; ++i) bring_up(i);
    /* Some steps with one device, so that it gets somewhere; now and then with another. */
    uint32_t number = 0;
    for (uint32_t done = 0; done < steps; ++done) {
        if (one_in(24)) number = below(device_count);
        step(one_in(8) ? below(device_count) : number);
    }
    for (uint32_t i = 0; i < device_count; ++i) {
        look(i);
        restore_bars(&devices[i]);
        if (one_in(2)) set_status(&devices[i], 0);
    }
    print_line("completed:", completed);
    return 0;
}
