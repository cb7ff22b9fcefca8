/* The parts of the guest that fuzzes devices. */
#pragma once

#include <stdint.h>

#include "virtio.h"

/* Where things are. Rings and data lie where no small number points to, and neither does the
   program (guests.mk): devices get nonsense for addresses and may write there. */
enum {
    ring_area = 0x3c000000,
    ring_area_size = 0x400000,
    data_area = ring_area + ring_area_size,
    data_area_size = 0x400000,
    ram_end = 0x40000000,
};

struct buffer {
    uint64_t address;
    uint32_t length;
    int write; /* the device writes there */
};

/* One chain. Buffers for the device to read come first. */
enum { most_buffers = 24 };
struct request {
    unsigned count;
    struct buffer buffers[most_buffers];
};

/* Some place in the data area with room for `size` bytes. */
uint32_t data_place(uint32_t size);
void give(struct request *request, uint32_t address, uint32_t length);   /* to the device */
void want(struct request *request, uint32_t address, uint32_t length);   /* from the device */
void give_value(struct request *request, const void *value, uint32_t length);

/* fuzz_requests.c: what a driver of that type would ask in that queue, mostly. */
void fill_request(struct request *request, uint32_t type, uint16_t queue, uint64_t features);

/* fuzz_ring.c: a driver's side of a queue. */
struct ring {
    struct queue_place place;
    uint64_t features;
    int usable;                 /* it is where it can be written */
    uint16_t available, used;   /* split: index; packed: position */
    uint16_t free;              /* slots */
    uint8_t available_wrap, used_wrap;
    uint16_t owner[256];        /* split: of each slot, head + 1; packed: by id, how many slots */
};
void start_ring(struct ring *ring);
/* False: there is no room for it. Mutates it, too, where `hostile`. */
int add_request(struct ring *ring, const struct request *request, int hostile);
/* Takes what the device has done; how many. */
unsigned take_used(struct ring *ring);
/* Writes nonsense to where the ring is. */
void spoil_ring(struct ring *ring);

/* fuzz_machine.c: the devices that every PC has. */
void access_legacy_device(void);
