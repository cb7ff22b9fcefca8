/* Requests as drivers make them, section 5, and some that none would make. One function for each
   type of device; a type without one gets buffers of any kind. */
#include "fuzz.h"
#include "machine.h"
#include "random.h"

uint32_t data_place(uint32_t size)
{
    static const uint16_t alignments[] = {1, 4, 16, 512, 4096};
    const uint32_t at = data_area + below(data_area_size - size);
    return at & -(uint32_t)alignments[below(5)];
}

static void add_buffer(struct request *request, uint32_t address, uint32_t length, int write)
{
    if (request->count == most_buffers) return;
    request->buffers[request->count++] = (struct buffer){address, length, write};
}

void give(struct request *request, uint32_t address, uint32_t length)
{
    add_buffer(request, address, length, 0);
}

void want(struct request *request, uint32_t address, uint32_t length)
{
    add_buffer(request, address, length, 1);
}

void give_value(struct request *request, const void *value, uint32_t length)
{
    const uint32_t at = data_place(length);
    for (uint32_t i = 0; i < length; ++i) byte_at(at)[i] = ((const uint8_t *)value)[i];
    give(request, at, length);
}

static void give_random(struct request *request, uint32_t length)
{
    const uint32_t at = data_place(length);
    for (uint32_t i = 0; i < length && i < 64; ++i) byte_at(at)[i] = (uint8_t)random32();
    give(request, at, length);  /* the rest is what was there */
}

static void want_some(struct request *request, uint32_t most, uint32_t length)
{
    for (uint32_t i = below(most) + 1; i > 0; --i) {
        const uint32_t size = below(length) + 1;
        want(request, data_place(size), size);
    }
}

static void fill_any(struct request *request, uint16_t queue, uint64_t features)
{
    (void)queue;
    (void)features;
    for (uint32_t i = below(4); i > 0; --i) give_random(request, below(200) + 1);
    if (request->count == 0 || one_in(2)) want_some(request, 4, 300);
}

static void fill_entropy(struct request *request, uint16_t queue, uint64_t features)
{
    (void)queue;
    (void)features;
    want_some(request, 6, one_in(8) ? 100000 : 300);
}

static void fill_block(struct request *request, uint16_t queue, uint64_t features)
{
    (void)queue;
    (void)features;
    static const uint32_t types[] = {0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 2};
    const uint32_t type = types[below(11)];
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header = {type, 0, below(one_in(8) ? 0x40000 : 0x4000)};
    if (one_in(40)) header.sector = (uint64_t)edge32() << below(33);
    give_value(request, &header, one_in(60) ? below(16) + 1 : sizeof header);
    const uint32_t unit = one_in(30) ? below(600) + 1 : 512;
    if (type == 0 || type == 1) {
        for (uint32_t i = below(8) + 1; i > 0; --i) {
            const uint32_t size = unit * (below(16) + 1);
            (type == 0 ? want : give)(request, data_place(size), size);
        }
    } else if (type == 8) {
        want(request, data_place(20), one_in(20) ? below(40) + 1 : 20);
    } else if (type == 11 || type == 13) {
        struct {
            uint64_t sector;
            uint32_t sectors, flags;
        } range = {below(0x4000), below(0x1000), below(2)};
        if (one_in(20)) range.sectors = edge32();
        if (one_in(40)) range.flags = edge32();
        give_value(request, &range, sizeof range);
    }
    if (!one_in(60)) want(request, data_place(1), 1);
}

/* Frames that user networking looks into: who has 10.0.2.2, DHCP, an echo, a connection. */
static uint32_t frame(uint8_t *to)
{
    static const uint8_t gateway[] = {10, 0, 2, 2}, guest[] = {10, 0, 2, 15};
    for (unsigned i = 0; i < 400; ++i) to[i] = 0;
    for (unsigned i = 0; i < 6; ++i) to[i] = 0xff;
    to[6] = 0x52;
    to[11] = 1;
    to[12] = 8;
    uint8_t *ip = to + 14;
    if (one_in(4)) { /* ARP */
        to[13] = 6;
        ip[1] = 1;
        ip[2] = 8;
        ip[4] = 6;
        ip[5] = 4;
        ip[7] = 1;
        for (unsigned i = 0; i < 4; ++i) {
            ip[14 + i] = guest[i];
            ip[24 + i] = gateway[i];
        }
        return 42;
    }
    if (one_in(6)) { /* IPv6 of some kind */
        to[12] = 0x86;
        to[13] = 0xdd;
        ip[0] = 0x60;
        ip[5] = 40;
        ip[6] = one_in(2) ? 58 : (uint8_t)random32();
        for (unsigned i = 7; i < 80; ++i) ip[i] = one_in(3) ? (uint8_t)random32() : 0;
        ip[8] = ip[24] = 0xfe;
        ip[9] = ip[25] = 0x80;
        return 14 + 80;
    }
    static const uint8_t protocols[] = {1, 6, 17};
    const uint32_t total = 28 + below(300);
    ip[0] = one_in(20) ? (uint8_t)random32() : 0x45;
    ip[2] = (uint8_t)(total >> 8);
    ip[3] = (uint8_t)total;
    ip[8] = 64;
    ip[9] = protocols[below(3)];
    for (unsigned i = 0; i < 4; ++i) {
        ip[12 + i] = guest[i];
        ip[16 + i] = gateway[i];
    }
    uint32_t sum = 0;
    for (unsigned i = 0; i < 20; i += 2) sum += (uint32_t)ip[i] << 8 | ip[i + 1];
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    if (!one_in(10)) {
        ip[10] = (uint8_t)(~sum >> 8);
        ip[11] = (uint8_t)~sum;
    }
    for (unsigned i = 20; i < total; ++i) ip[i] = one_in(2) ? (uint8_t)random32() : 0;
    if (ip[9] == 1) ip[20] = 8;
    if (ip[9] == 17 && one_in(2)) { /* BOOTP, from 68 to 67 */
        ip[20] = ip[22] = 0;
        ip[21] = 68;
        ip[23] = 67;
    }
    return 14 + total;
}

static void fill_net_control(struct request *request, uint64_t features)
{
    (void)features;
    static const uint16_t commands[] = {0x0000, 0x0100, 0x0200, 0x0300, 0x0400, 0x0500,
                                        0x0001, 0x0101, 0x0004, 0x0005};
    const uint16_t command = one_in(20) ? (uint16_t)random32() : commands[below(10)];
    give_value(request, &command, 2);
    if (command == 0x0001) {
        uint32_t count = one_in(10) ? edge32() : below(3);
        give_value(request, &count, 4);
        give_random(request, 6 * (count < 16 ? count : 16) + 1);
        give_value(request, &count, 4);
    } else {
        give_random(request, below(10) + 1);
    }
    if (!one_in(60)) want(request, data_place(1), 1);
}

static void fill_net(struct request *request, uint16_t queue, uint64_t features)
{
    if (queue == 2 || one_in(20)) return fill_net_control(request, features);
    if (queue % 2 == 0) {
        want_some(request, one_in(4) ? 3 : 1, 3000);
        return;
    }
    /* virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers */
    uint8_t header[12] = {0};
    if (one_in(3)) {
        header[0] = (uint8_t)below(4);
        header[1] = (uint8_t)(one_in(6) ? random32() : below(6));
        header[2] = (uint8_t)below(100);
        header[4] = (uint8_t)below(256);
        header[5] = (uint8_t)below(8);
        header[6] = (uint8_t)below(80);
        header[8] = (uint8_t)below(20);
    }
    static uint8_t bytes[400];
    const uint32_t size = frame(bytes);
    const uint32_t split = below(size);
    give_value(request, header, (features & F_VERSION_1) != 0 && !one_in(50) ? 12 : 10);
    if (split != 0) give_value(request, bytes, split);
    give_value(request, bytes + split, size - split);
    if (one_in(10)) give_random(request, below(60000) + 1);
}

static void fill_console(struct request *request, uint16_t queue, uint64_t features)
{
    (void)features;
    if (queue % 2 == 0) {
        want_some(request, 2, 200);
    } else if (queue == 3 && !one_in(8)) {
        struct {
            uint32_t id;
            uint16_t event, value;
        } control = {below(4), (uint16_t)below(9), (uint16_t)below(2)};
        if (one_in(10)) control.id = edge32();
        give_value(request, &control, one_in(20) ? below(8) + 1 : sizeof control);
    } else {
        give_random(request, below(500) + 1);
    }
}

static void fill_balloon(struct request *request, uint16_t queue, uint64_t features)
{
    (void)features;
    enum { most_pages = 64 };
    if (queue == 2) {
        give_random(request, 10 * (below(10) + 1));
        return;
    }
    if (queue >= 3) {
        want(request, data_place(0x10000), below(0x10000) + 1);
        return;
    }
    uint32_t pages[most_pages];
    const uint32_t count = below(most_pages) + 1, step = below(3) - 1;
    pages[0] = (data_area >> 12) + below(data_area_size >> 12);
    for (uint32_t i = 1; i < count; ++i) {
        pages[i] = one_in(10) ? (uint32_t)(ram_end >> 12) - 16 + below(64) : pages[i - 1] + step;
    }
    give_value(request, pages, one_in(10) ? 4 * count - below(4) : 4 * count);
}

/* Packets of a few streams, so that some have a state that others change: section 5.10.6. */
static void fill_socket(struct request *request, uint16_t queue, uint64_t features)
{
    (void)features;
    if (queue != 1) {
        want_some(request, 2, 5000);
        return;
    }
    enum { guest_cid = 3, host_cid = 2, type_stream = 1, op_rw = 5 };
    struct {
        uint64_t source_cid, destination_cid;
        uint32_t source_port, destination_port, length;
        uint16_t type, operation;
        uint32_t flags, buffer, forwarded;
    } __attribute__((packed)) header = {guest_cid, host_cid, 1000 + below(3), 1024, 0, type_stream,
                                        (uint16_t)(1 + below(7)), below(4), 0x10000, below(0x4000)};
    if (one_in(3)) header.operation = one_in(2) ? op_rw : 1;
    if (header.operation == op_rw) header.length = below(2000) + 1;
    const uint32_t length = header.length;
    if (one_in(20)) header.length = edge32();
    if (one_in(20)) header.destination_port = edge32();
    if (one_in(20)) header.buffer = edge32();
    if (one_in(20)) header.forwarded = edge32();
    if (one_in(40)) header.destination_cid = edge32();
    if (one_in(40)) header.source_cid = edge32();
    if (one_in(40)) header.type = (uint16_t)edge32();
    if (one_in(40)) header.operation = (uint16_t)edge32();
    give_value(request, &header, one_in(40) ? below(44) + 1 : sizeof header);
    if (length != 0) give_random(request, length);
}

static const struct {
    uint32_t type;
    void (*fill)(struct request *request, uint16_t queue, uint64_t features);
} kinds[] = {
    {type_net, fill_net},         {type_block, fill_block},     {type_console, fill_console},
    {type_entropy, fill_entropy}, {type_balloon, fill_balloon}, {type_socket, fill_socket},
};

void fill_request(struct request *request, uint32_t type, uint16_t queue, uint64_t features)
{
    request->count = 0;
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
        if (kinds[i].type == type && !one_in(20)) {
            return kinds[i].fill(request, queue, features);
        }
    }
    fill_any(request, queue, features);
}
