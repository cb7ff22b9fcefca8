/* Between order.c, 32-bit, and order64.c. */
#pragma once

#include <stdint.h>

enum { STORES_FENCED, STORES_EXCHANGED, MESSAGE, LOADS, WRITERS_AND_READERS, ORDER_TESTS };

struct order_counts {
    uint32_t inc, swapped, guarded, bits, across;
};

struct order_work {
    uint32_t cpus, rounds;
    uint32_t forbidden[ORDER_TESTS]; /* outcomes that no x86 processor shows */
    uint32_t wrong_code;
    struct order_counts counts;
};
