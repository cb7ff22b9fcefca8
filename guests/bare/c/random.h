/* Numbers from a seed: the same seed, the same numbers. */
#pragma once

#include <stdint.h>

void seed_random(uint32_t seed);
uint32_t random32(void);
/* Below `limit`, which is not 0. */
uint32_t below(uint32_t limit);
/* One time in `times`. */
int one_in(uint32_t times);
/* What programs get wrong: small, near a power of two, all ones, or anything. */
uint32_t edge32(void);
