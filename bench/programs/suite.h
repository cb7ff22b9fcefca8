/* The programs whose speed is compared: natively, under QEMU's emulator, under doppel.
 *
 * A program is a fixed piece of work, its unit, that says what it computed. The harness
 * (main.c) repeats units for a bounded time and reports the fastest repetition. The result of
 * a unit is the same every time and on every machine, so a wrong machine is found as well as
 * a slow one. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct program {
    const char *name;
    const char *group;
    uint64_t operations;     /* in one unit; times are reported per operation */
    uint64_t (*unit)(void);  /* returns what was computed */
    void (*prepare)(void);   /* before the first unit, or null */
    void (*finish)(void);    /* after the last unit, or null */
    const char *(*lacking)(void); /* what this machine lacks to run it; null: nothing */
};

/* Ended by one without a name. */
extern const struct program integer_programs[];
extern const struct program floating_programs[];
extern const struct program memory_programs[];
extern const struct program system_programs[];

/* xorshift64: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* One step of FNV-1a over a word: joins results into one. */
static inline uint64_t join(uint64_t sum, uint64_t value) { return (sum ^ value) * 0x100000001b3; }

/* Prints why and exits: for what cannot fail on a machine that works. */
_Noreturn void give_up(const char *what);
