/* What several processors may see of each other's stores, and of each other's code: 64-bit, and at
   home at any address, since it runs in the lower half and in the upper half of the address space.
   Linked to a flat image with order_run() at its beginning, see order.c. */
#include <stdint.h>

#include "order.h"

#define INSTANCES 2048u
#define STRIDE 8u /* words: a cache line */
#define CODE_PAGES 2u
#define SLOT 32u
#define SLOTS (CODE_PAGES * 4096u / SLOT)

static uint64_t x[INSTANCES * STRIDE] __attribute__((aligned(4096)));
static uint64_t y[INSTANCES * STRIDE] __attribute__((aligned(4096)));
static uint64_t seen[4][INSTANCES];
static uint8_t code[CODE_PAGES * 4096u] __attribute__((aligned(4096)));

static volatile uint32_t arrived, generation;
static volatile uint64_t published;
static volatile uint32_t answers, wrong_code;
static uint8_t split[128] __attribute__((aligned(64)));

static void pause_once(void) { __asm__ volatile("pause" ::: "memory"); }
/* To whoever is waited for, when it seems to have no processor of the host: KVM_HC_SCHED_YIELD. */
static void yield(void)
{
    uint64_t number = 11;
    __asm__ volatile("vmcall" : "+a"(number) : "b"(0) : "memory");
}
static void wait_more(uint32_t waited)
{
    if (waited % 256 == 0) {
        yield();
    } else {
        pause_once();
    }
}
#define WAIT_WHILE(condition) \
    for (uint32_t waited_ = 1; (condition); ++waited_) wait_more(waited_)
static void compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }
static void add(volatile uint32_t *to, uint32_t value)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(value), "+m"(*to)::"memory");
}
static void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

static void meet(uint32_t cpus)
{
    const uint32_t now = generation;
    uint32_t one = 1;
    __asm__ volatile("lock xaddl %0, %1" : "+r"(one), "+m"(arrived)::"memory");
    if (one + 1 == cpus) {
        arrived = 0;
        compiler_barrier();
        generation = now + 1;
        return;
    }
    WAIT_WHILE(generation == now);
}

/* ---- memory order: x86 lets a store pass a later load, and nothing else --------------------------- */

static void store(uint64_t *to, uint64_t value) { *(volatile uint64_t *)to = value; }
static uint64_t load(const uint64_t *from) { return *(const volatile uint64_t *)from; }
static void fence(void) { __asm__ volatile("mfence" ::: "memory"); }
static void exchange(uint64_t *to, uint64_t value)
{
    __asm__ volatile("xchgq %0, %1" : "+r"(value), "+m"(*to)::"memory");
}

static void part(uint32_t test, uint32_t me, uint32_t i)
{
    uint64_t *const a = &x[i * STRIDE], *const b = &y[i * STRIDE];
    uint64_t *const own = me == 0 ? a : b, *const other = me == 0 ? b : a;
    uint64_t first, second;
    switch (test) {
    case STORES:
        store(own, 1);
        seen[me][i] = load(other);
        break;
    case STORES_FENCED:
        store(own, 1);
        fence();
        seen[me][i] = load(other);
        break;
    case STORES_EXCHANGED:
        exchange(own, 1);
        seen[me][i] = load(other);
        break;
    case MESSAGE:
        if (me == 0) {
            store(a, 1);
            store(b, 1);
        } else {
            first = load(b);
            second = load(a);
            seen[1][i] = first << 1 | second;
        }
        break;
    case MESSAGE_EXCHANGED:
        if (me == 0) {
            store(a, 1);
            exchange(b, 1);
        } else {
            first = load(b);
            second = load(a);
            seen[1][i] = first << 1 | second;
        }
        break;
    case LOADS:
        first = load(own);
        store(other, 1);
        seen[me][i] = first;
        break;
    case LOADS_EXCHANGED:
        first = load(own);
        exchange(other, 1);
        seen[me][i] = first;
        break;
    case WRITERS_AND_READERS:
    case WRITERS_AND_READERS_EXCHANGED:
        if (me < 2 && test == WRITERS_AND_READERS) {
            store(own, 1);
        } else if (me < 2) {
            exchange(own, 1);
        } else {
            first = load(me == 2 ? a : b);
            second = load(me == 2 ? b : a);
            seen[me][i] = first << 1 | second;
        }
        break;
    default: break;
    }
}

static int reordered(uint32_t test, uint32_t i)
{
    switch (test) {
    case STORES:
    case STORES_FENCED:
    case STORES_EXCHANGED: return seen[0][i] == 0 && seen[1][i] == 0;
    case MESSAGE:
    case MESSAGE_EXCHANGED: return seen[1][i] == 2;
    case LOADS:
    case LOADS_EXCHANGED: return seen[0][i] == 1 && seen[1][i] == 1;
    case WRITERS_AND_READERS:
    case WRITERS_AND_READERS_EXCHANGED: return seen[2][i] == 2 && seen[3][i] == 2;
    default: return 0;
    }
}

static uint32_t check_order(uint32_t test, uint32_t me, uint32_t cpus, uint32_t rounds)
{
    const uint32_t parts = test >= WRITERS_AND_READERS ? 4 : 2;
    uint32_t found = 0;
    if (cpus < parts) return 0;
    for (uint32_t round = 0; round < rounds; ++round) {
        if (me == 0) {
            for (uint32_t i = 0; i < INSTANCES * STRIDE; ++i) x[i] = y[i] = 0;
        }
        meet(cpus);
        if (me < parts) {
            for (uint32_t i = 0; i < (round * 7 + me * 13) % 64; ++i) compiler_barrier();
            for (uint32_t i = 0; i < INSTANCES; ++i) part(test, me, i);
        }
        meet(cpus);
        if (me != 0) continue;
        for (uint32_t i = 0; i < INSTANCES; ++i) found += reordered(test, i) ? 1 : 0;
    }
    return found;
}

/* ---- locked instructions --------------------------------------------------------------------------- */

static void count(struct order_counts *counts, uint32_t rounds)
{
    uint32_t *const across = (uint32_t *)(void *)(split + 62); /* two cache lines */
    for (uint32_t i = 0; i < rounds; ++i) {
        __asm__ volatile("lock incl %0" : "+m"(counts->inc)::"memory");
        __asm__ volatile("lock incl %0" : "+m"(*across)::"memory");
        uint32_t old = counts->swapped, next;
        do {
            next = old + 1;
            __asm__ volatile("lock cmpxchgl %2, %1"
                             : "+a"(old), "+m"(counts->swapped)
                             : "r"(next)
                             : "memory", "cc");
        } while (old != next - 1);
        uint8_t taken;
        do {
            __asm__ volatile("lock btsl $3, %1; setc %0"
                             : "=r"(taken), "+m"(counts->bits)::"memory", "cc");
        } while (taken);
        ++counts->guarded;
        compiler_barrier();
        __asm__ volatile("lock andl $~8, %0" : "+m"(counts->bits)::"memory", "cc");
    }
}

/* ---- code ------------------------------------------------------------------------------------------ */

/* mov $value, %eax; ret */
static void write_code(uint8_t *to, uint32_t value)
{
    to[0] = 0xb8;
    *(volatile uint32_t *)(void *)(to + 1) = value;
    to[5] = 0xc3;
}
static uint32_t call(const uint8_t *what)
{
    uint32_t value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(what) : "memory", "rcx", "rdx");
    return value;
}

/* Round after round new code where older code was: in the one slot, by the architecture's protocol; or
   in the next of many, as a compiler does it that never changes what may be running. */
static void rewrite(uint32_t me, uint32_t cpus, uint32_t rounds, int protocol)
{
    for (uint32_t round = 1; round <= rounds; ++round) {
        uint8_t *const slot = code + (protocol ? 0 : round % SLOTS * SLOT);
        const uint32_t writer = round / 16 % cpus;
        if (me == writer) {
            write_code(slot, round);
            compiler_barrier();
            published = round;
        } else {
            WAIT_WHILE(published != round);
            if (protocol) serialize();
        }
        for (uint32_t i = 0; i < 4; ++i) {
            if (call(slot) != round) add(&wrong_code, 1);
        }
        add(&answers, 1);
        WAIT_WHILE(answers < round * cpus);
    }
    meet(cpus);
    published = 0;
    answers = 0;
    meet(cpus);
}

/* Code and a counter in one page: everybody runs the one and writes the other. */
static void share_page(uint32_t me, uint32_t cpus, uint32_t rounds)
{
    volatile uint32_t *const counter = (volatile uint32_t *)(void *)(code + 2048);
    if (me == 0) {
        write_code(code, 7);
        *counter = 0;
    }
    meet(cpus);
    serialize();
    for (uint32_t i = 0; i < rounds; ++i) {
        if (call(code) != 7) add(&wrong_code, 1);
        add(counter, 1);
    }
    meet(cpus);
    if (me == 0 && *counter != rounds * cpus) add(&wrong_code, 1);
    meet(cpus);
}

__attribute__((section(".text.entry"))) void order_run(uint32_t me, struct order_work *work)
{
    const uint32_t cpus = work->cpus, rounds = work->rounds;
    for (uint32_t test = 0; test < ORDER_TESTS; ++test) {
        const uint32_t found = check_order(test, me, cpus, work->orders);
        if (me == 0) work->reordered[test] = found;
    }
    count(&work->counts, rounds * 64);
    rewrite(me, cpus, rounds * 4, 1);
    rewrite(me, cpus, rounds * 4, 0);
    share_page(me, cpus, rounds * 2);
    meet(cpus);
    if (me != 0) return;
    uint32_t *const across = (uint32_t *)(void *)(split + 62);
    work->counts.across = *across;
    *across = 0;
    work->wrong_code = wrong_code;
}
