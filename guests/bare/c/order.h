/* Between order.c, 32-bit, and order64.c. */
#pragma once

#include <stdint.h>

/* Four shapes, each with plain stores and with locked ones. Where a store passes a later load,
   STORES, is the one that x86 processors show. */
enum {
    STORES,
    STORES_FENCED,
    STORES_EXCHANGED,
    MESSAGE,
    MESSAGE_EXCHANGED,
    LOADS,
    LOADS_EXCHANGED,
    WRITERS_AND_READERS,
    WRITERS_AND_READERS_EXCHANGED,
    ORDER_TESTS
};

struct order_counts {
    uint32_t inc, swapped, guarded, bits, across;
};

struct order_work {
    uint32_t cpus, rounds, orders; /* orders: rounds of 2048 for each shape */
    uint32_t reordered[ORDER_TESTS]; /* outcomes that none but STORES may have */
    uint32_t wrong_code;
    struct order_counts counts;
};
