/* Writes to the first disk for ever, so that its host can be killed: transaction after transaction,
   each some blocks at places and with content that follow from seed=N and the transaction's number,
   then a flush, then "flushed N" on the console. With through=1 the disk's cache is not used, and
   there is nothing to flush. tests/e2e/durability_test.py computes the same and looks. */
#include "machine.h"
#include "virtio.h"

enum {
    block_size = 4096,
    sector_size = 512,
    sectors = block_size / sector_size,
    most_blocks = 8, /* in a transaction */
    descriptors = 32,
    F_BLK_FLUSH = 1 << 9,
    F_BLK_WRITE_ZEROES = 1 << 14,
    BLK_OUT = 1,
    BLK_FLUSH = 4,
    BLK_WRITE_ZEROES = 13,
    DESC_NEXT = 1,
    DESC_WRITE = 2,
};

/* A split ring, sections 2.7.5 to 2.7.8. */
static struct {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
} table[descriptors] __attribute__((aligned(16)));
static struct {
    uint16_t flags, index, ring[descriptors], used_event;
} available __attribute__((aligned(4)));
static struct {
    uint16_t flags;
    volatile uint16_t index;
    struct {
        uint32_t id, length;
    } ring[descriptors];
    uint16_t avail_event;
} used __attribute__((aligned(4)));

static struct {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    struct {
        uint64_t sector;
        uint32_t sectors, flags;
    } range;
    volatile uint8_t status;
} requests[most_blocks];
static uint32_t blocks[most_blocks][block_size / 4];
static struct device found[most_devices];

/* durability_test.py has the same. */
static uint32_t mix(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca6bu ^ c * 0xc2b2ae35u;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static void fill_block(uint32_t *block, uint32_t transaction, uint32_t place)
{
    for (uint32_t sector = 0; sector < sectors; ++sector) {
        const uint32_t words[] = {transaction, place, sector, mix(transaction, place, sector)};
        for (uint32_t i = 0; i < sector_size / 4; ++i) *block++ = words[i % 4];
    }
}

static void set(uint32_t index, const volatile void *address, uint32_t length, uint16_t flags)
{
    table[index].address = (uint32_t)address;
    table[index].length = length;
    table[index].flags = flags;
    table[index].next = (uint16_t)(index + 1);
}

/* Request i, whose descriptors begin at 3 * i; data: what lies between header and status. */
static void add(uint32_t i, uint32_t type, uint64_t sector, const void *data, uint32_t size)
{
    requests[i].header.type = type;
    requests[i].header.sector = sector;
    requests[i].status = 0xff;
    set(3 * i, &requests[i].header, sizeof requests[i].header, DESC_NEXT);
    if (size != 0) set(3 * i + 1, data, size, DESC_NEXT);
    set(3 * i + 2, &requests[i].status, 1, DESC_WRITE);
    if (size == 0) table[3 * i].next = (uint16_t)(3 * i + 2);
    available.ring[available.index % descriptors] = (uint16_t)(3 * i);
    barrier();
    ++available.index;
}

/* Rings for what was added, and waits for `count` requests; false: one failed. */
static int finish(const struct device *disk, uint32_t count)
{
    barrier();
    notify(disk, 0);
    while (used.index != available.index) __asm__ volatile("pause");
    for (uint32_t i = 0; i < count; ++i) {
        if (requests[i].status != 0) return 0;
    }
    return 1;
}

static int transact(const struct device *disk, uint32_t seed, uint32_t number, uint32_t places,
                    int zeroes)
{
    const uint32_t count = 1 + mix(seed, number, 0) % most_blocks;
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t choice = mix(seed, number, i + 1);
        const uint32_t place = choice % places;
        if (zeroes && choice >> 29 == 0) {
            requests[i].range.sector = (uint64_t)place * sectors;
            requests[i].range.sectors = sectors;
            requests[i].range.flags = choice >> 28 & 1; /* may be unmapped */
            add(i, BLK_WRITE_ZEROES, 0, &requests[i].range, sizeof requests[i].range);
        } else {
            fill_block(blocks[i], number, place);
            add(i, BLK_OUT, (uint64_t)place * sectors, blocks[i], block_size);
        }
    }
    return finish(disk, count);
}

uint32_t guest_main(void)
{
    const uint32_t seed = option("seed=", 1), through = option("through=", 0);
    const struct device *disk = found;
    uint32_t left = find_devices(found);
    while (left != 0 && disk->type != type_block) {
        ++disk;
        --left;
    }
    if (left == 0) return 1;
    set_status(disk, 0);
    set_status(disk, ACKNOWLEDGE | DRIVER);
    const uint64_t offered = offered_features(disk);
    const int zeroes = (offered & F_BLK_WRITE_ZEROES) != 0;
    if (!zeroes || (offered & F_BLK_FLUSH) == 0) return 2;
    accept_features(disk, F_VERSION_1 | F_BLK_WRITE_ZEROES | (through ? 0 : F_BLK_FLUSH));
    set_status(disk, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    const struct queue_place place = {(uint32_t)table, (uint32_t)&available, (uint32_t)&used,
                                      descriptors, 0xffff};
    place_queue(disk, 0, &place);
    enable_queue(disk, 0);
    set_status(disk, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    if (get_status(disk) != (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)) return 3;

    const uint32_t places = *dword_at(disk->config) / sectors;
    for (uint32_t number = 1;; ++number) {
        if (!transact(disk, seed, number, places, zeroes)) return 4;
        if (!through) {
            add(0, BLK_FLUSH, 0, 0, 0);
            if (!finish(disk, 1)) return 5;
        }
        print_line("flushed", number);
    }
}
