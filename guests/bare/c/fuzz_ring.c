/* A driver's side of split and packed rings, sections 2.7 and 2.8, that does not always do what
   they say. */
#include "fuzz.h"
#include "machine.h"
#include "random.h"

enum { desc_next = 1, desc_write = 2, desc_indirect = 4, desc_avail = 1 << 7, desc_used = 1 << 15 };

/* Of split rings; packed ones have id and flags where these have flags and next. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

static int is_packed(const struct ring *ring)
{
    return (ring->features & F_RING_PACKED) != 0;
}

static uint16_t capacity(const struct ring *ring)
{
    return ring->place.size;
}

static volatile struct descriptor *descriptor_at(const struct ring *ring, uint32_t slot)
{
    return (volatile struct descriptor *)(uint32_t)(ring->place.descriptors + 16 * slot);
}

static int inside(uint64_t address, uint32_t size)
{
    return address >= ring_area && address + size <= data_area + data_area_size;
}

void start_ring(struct ring *ring)
{
    const struct queue_place *place = &ring->place;
    ring->usable = place->size != 0 && place->size <= 256 && place->descriptors % 16 == 0 &&
                   place->driver % 4 == 0 && place->device % 4 == 0 &&
                   inside(place->descriptors, 16u * place->size) &&
                   inside(place->driver, 4096) && inside(place->device, 4096);
    ring->available = ring->used = 0;
    ring->available_wrap = ring->used_wrap = 1;
    ring->free = place->size;
    clear((uint32_t)ring->owner, sizeof ring->owner);
    if (!ring->usable) return;
    clear((uint32_t)place->descriptors, 16u * place->size);
    clear((uint32_t)place->driver, 4u + 2u * place->size + 2);
    clear((uint32_t)place->device, 4u + 8u * place->size + 2);
}

static void put(volatile struct descriptor *to, const struct buffer *buffer, uint16_t flags,
                uint16_t next)
{
    to->address = buffer->address;
    to->length = buffer->length;
    to->flags = flags;
    to->next = next;
}

static uint16_t flags_of(const struct buffer *buffer)
{
    return buffer->write ? desc_write : 0;
}

/* The buffers in a table of its own, and the one buffer that is this table. */
static struct buffer indirect_table(const struct ring *ring, const struct request *request)
{
    const struct buffer table = {data_place(16 * most_buffers), 16 * request->count, 0};
    volatile struct descriptor *entries = (volatile struct descriptor *)(uint32_t)table.address;
    for (unsigned i = 0; i < request->count; ++i) {
        const struct buffer *buffer = &request->buffers[i];
        const int more = i + 1 < request->count;
        if (is_packed(ring)) {
            put(&entries[i], buffer, 0, flags_of(buffer)); /* id, flags */
        } else {
            put(&entries[i], buffer, (uint16_t)(flags_of(buffer) | (more ? desc_next : 0)),
                (uint16_t)(more ? i + 1 : 0));
        }
    }
    return table;
}

/* A field of a descriptor that was just written becomes something else. */
static void mutate(const struct ring *ring, uint32_t slot)
{
    volatile struct descriptor *descriptor = descriptor_at(ring, slot);
    switch (below(5)) {
    case 0: descriptor->address = (uint64_t)edge32() << 32 | edge32(); break;
    case 1: descriptor->length = edge32(); break;
    case 2: descriptor->flags = (uint16_t)edge32(); break;
    case 3: descriptor->next = (uint16_t)edge32(); break;
    default: descriptor->flags ^= (uint16_t)(1u << below(16)); break;
    }
}

static int add_split(struct ring *ring, const struct buffer *buffers, unsigned count,
                     uint16_t extra, int hostile)
{
    uint16_t slots[most_buffers];
    unsigned found = 0;
    const uint16_t start = (uint16_t)below(capacity(ring));
    for (unsigned i = 0; i < capacity(ring) && found < count; ++i) {
        const uint16_t slot = (uint16_t)((start + i) % capacity(ring));
        if (ring->owner[slot] == 0) slots[found++] = slot;
    }
    if (found < count) return 0;
    for (unsigned i = 0; i < count; ++i) {
        const int more = i + 1 < count;
        put(descriptor_at(ring, slots[i]), &buffers[i],
            (uint16_t)(flags_of(&buffers[i]) | extra | (more ? desc_next : 0)),
            more ? slots[i + 1] : 0);
        ring->owner[slots[i]] = (uint16_t)(slots[0] + 1);
    }
    ring->free = (uint16_t)(ring->free - count);
    if (hostile) mutate(ring, slots[below(count)]);
    const uint32_t driver = (uint32_t)ring->place.driver;
    word_at(driver)[2 + ring->available % capacity(ring)] = slots[0];
    ++ring->available;
    barrier();
    word_at(driver)[1] = ring->available;
    return 1;
}

static int add_packed(struct ring *ring, const struct buffer *buffers, unsigned count,
                      uint16_t extra, int hostile)
{
    uint16_t id = 0;
    while (id < capacity(ring) && ring->owner[id] != 0) ++id;
    if (count > ring->free || id == capacity(ring)) return 0;
    ring->owner[id] = (uint16_t)count;
    ring->free = (uint16_t)(ring->free - count);
    const uint16_t head = ring->available;
    uint16_t head_flags = 0;
    for (unsigned i = 0; i < count; ++i) {
        const uint16_t slot = ring->available;
        const uint16_t flags = (uint16_t)(flags_of(&buffers[i]) | extra |
                                          (i + 1 < count ? desc_next : 0) |
                                          (ring->available_wrap ? desc_avail : desc_used));
        /* The head's flags give the chain away, last of all. */
        if (i == 0) head_flags = flags;
        put(descriptor_at(ring, slot), &buffers[i], id,
            i == 0 ? descriptor_at(ring, slot)->next : flags);
        if (hostile && i != 0 && one_in(count)) mutate(ring, slot);
        if (++ring->available == capacity(ring)) {
            ring->available = 0;
            ring->available_wrap = !ring->available_wrap;
        }
    }
    barrier();
    descriptor_at(ring, head)->next = head_flags;
    if (hostile && one_in(2)) mutate(ring, head);
    return 1;
}

int add_request(struct ring *ring, const struct request *request, int hostile)
{
    if (!ring->usable || request->count == 0) return 0;
    const struct buffer *buffers = request->buffers;
    struct buffer table;
    unsigned count = request->count;
    uint16_t extra = 0;
    const int negotiated = (ring->features & F_INDIRECT_DESC) != 0;
    if (negotiated ? one_in(2) : hostile && one_in(4)) {
        table = indirect_table(ring, request);
        if (hostile && one_in(2)) table.length = edge32();
        buffers = &table;
        count = 1;
        extra = desc_indirect;
    }
    return is_packed(ring) ? add_packed(ring, buffers, count, extra, hostile)
                           : add_split(ring, buffers, count, extra, hostile);
}

static unsigned take_split(struct ring *ring)
{
    const uint32_t device = (uint32_t)ring->place.device;
    unsigned taken = 0;
    while (ring->used != word_at(device)[1] && taken < capacity(ring)) {
        const uint32_t id = dword_at(device)[1 + 2 * (ring->used % capacity(ring))];
        ++ring->used;
        ++taken;
        for (unsigned i = 0; i < capacity(ring); ++i) {
            if (ring->owner[i] != id + 1) continue;
            ring->owner[i] = 0;
            ++ring->free;
        }
    }
    return taken;
}

static unsigned take_packed(struct ring *ring)
{
    unsigned taken = 0;
    for (; taken < capacity(ring); ++taken) {
        volatile struct descriptor *used = descriptor_at(ring, ring->used);
        const uint16_t flags = used->next, id = used->flags; /* packed names: flags, id */
        const int avail = (flags & desc_avail) != 0, done = (flags & desc_used) != 0;
        if (avail != done || done != ring->used_wrap) break;
        if (id >= capacity(ring) || ring->owner[id] == 0) break;
        const uint16_t slots = ring->owner[id];
        ring->owner[id] = 0;
        ring->free = (uint16_t)(ring->free + slots);
        ring->used = (uint16_t)(ring->used + slots);
        if (ring->used >= capacity(ring)) {
            ring->used = (uint16_t)(ring->used - capacity(ring));
            ring->used_wrap = !ring->used_wrap;
        }
    }
    return taken;
}

unsigned take_used(struct ring *ring)
{
    if (!ring->usable) return 0;
    return is_packed(ring) ? take_packed(ring) : take_split(ring);
}

void spoil_ring(struct ring *ring)
{
    if (!ring->usable) return;
    const uint32_t driver = (uint32_t)ring->place.driver;
    switch (below(6)) {
    case 0: mutate(ring, below(capacity(ring))); break;
    case 1:
        for (unsigned i = 0; i < 4; ++i) mutate(ring, below(capacity(ring)));
        break;
    case 2: word_at(driver)[1] = (uint16_t)(ring->available + below(4) - 1); break;
    case 3: word_at(driver)[1] = (uint16_t)edge32(); break;
    case 4: word_at(driver)[below(4)] = (uint16_t)edge32(); break;  /* wishes for interrupts */
    default: word_at(driver)[2 + below(capacity(ring))] = (uint16_t)edge32(); break;
    }
}
