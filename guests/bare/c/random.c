#include "random.h"

static uint32_t state = 1;

void seed_random(uint32_t seed)
{
    state = seed * 2654435761u ^ 0x9e3779b9u;
    if (state == 0) state = 1;
    for (int i = 0; i < 8; ++i) random32();
}

/* Marsaglia, Xorshift RNGs, with a multiplication behind it. */
uint32_t random32(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state * 0x9e3779b1u;
}

uint32_t below(uint32_t limit)
{
    return (uint32_t)((uint64_t)random32() * limit >> 32);
}

int one_in(uint32_t times)
{
    return below(times) == 0;
}

uint32_t edge32(void)
{
    switch (below(6)) {
    case 0: return below(4);
    case 1: return below(64);
    case 2: return below(0x10000);
    case 3: return (1u << below(32)) - below(3) + 1;
    case 4: return ~below(3);
    default: return random32();
    }
}
