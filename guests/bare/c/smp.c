/* Several processors: starts them by INIT and SIPI, and has them count, take locks, send
   interrupts, pass messages and rewrite code that the others run. "cpus=N rounds=N". */
#include "machine.h"

#define LAPIC 0xfee00000u
#define LAPIC_ID (LAPIC + 0x20)
#define LAPIC_EOI (LAPIC + 0xb0)
#define LAPIC_SPURIOUS (LAPIC + 0xf0)
#define LAPIC_ICR_LOW (LAPIC + 0x300)
#define LAPIC_ICR_HIGH (LAPIC + 0x310)
#define ICR_INIT 0x4500u
#define ICR_STARTUP 0x4600u
#define ICR_OTHERS 0xc0000u
#define ICR_ASSERT 0x4000u
#define VECTOR 0x40u
#define TRAMPOLINE 0x8000u
#define STACKS 0x200000u
#define STACK_SIZE 0x4000u
#define CODE 0x300000u /* a page of its own: what is rewritten */
#define MOST 64u

/* smp_entry.S */
extern const uint8_t trampoline_begin[], trampoline_end[];
extern volatile uint32_t next_stack;
void on_interrupt(void);
void wait_for_interrupt(void); /* STI, HLT, CLI */
void ap_main(void);

enum phase { START, COUNT, LOCK, MESSAGE, REWRITE, INTERRUPT, RESTART, DONE };

static volatile uint32_t arrived, phase, finished, counter, guarded, lock, failures;
static volatile uint32_t interrupts[MOST];
static volatile uint32_t mailbox, answer, code_round, code_answers, store_x, store_y;
static uint32_t cpus, rounds;

volatile uint32_t *const code = (volatile uint32_t *)CODE;

static void pause_once(void) { __asm__ volatile("pause" ::: "memory"); }
static void add(volatile uint32_t *to, uint32_t value)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(value), "+m"(*to)::"memory");
}
static void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}
static void wait_until(volatile uint32_t *what, uint32_t value)
{
    while (*what != value) pause_once();
}

static void take(void)
{
    uint32_t taken = 1;
    do {
        while (lock != 0) pause_once();
        taken = 1;
        __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(lock)::"memory");
    } while (taken != 0);
}
static void give(void)
{
    __asm__ volatile("" ::: "memory");
    lock = 0;
}

static void count(void)
{
    for (uint32_t i = 0; i < rounds; ++i) __asm__ volatile("lock incl %0" : "+m"(counter)::"memory");
}
static void lock_and_count(void)
{
    for (uint32_t i = 0; i < rounds / 8; ++i) {
        take();
        ++guarded;
        give();
    }
}

/* The second processor's half of two tests of memory order: a message is never behind its flag,
   and of two fenced stores one is seen. */
static void pass_messages(void)
{
    for (uint32_t i = 1; i <= rounds / 8; ++i) {
        while (mailbox != i) pause_once();
        if (answer != i * 3) add(&failures, 1);
        store_x = i;
        __asm__ volatile("mfence" ::: "memory");
        const uint32_t seen = store_y;
        mailbox = seen == i ? 0x80000000u | i : 0x40000000u | i;
    }
}
static uint32_t check_messages(void)
{
    uint32_t neither = 0;
    for (uint32_t i = 1; i <= rounds / 8; ++i) {
        answer = i * 3;
        __asm__ volatile("" ::: "memory");
        mailbox = i;
        store_y = i;
        __asm__ volatile("mfence" ::: "memory");
        const uint32_t seen = store_x;
        while ((mailbox & 0xc0000000u) == 0) pause_once();
        if (seen != i && (mailbox & 0x40000000u) != 0) ++neither;
    }
    return neither;
}

/* mov $round, %eax; ret, in one word and another: the second word never changes. */
static void write_code(uint32_t round)
{
    code[0] = 0xb8u | round << 8;
    code[1] = 0xc300u | round >> 24;
}
static uint32_t call_code(void)
{
    uint32_t value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(CODE) : "memory");
    return value;
}
static void run_rewritten(void)
{
    for (uint32_t round = 1; round <= rounds / 64; ++round) {
        wait_until(&code_round, round);
        serialize();
        if (call_code() != round) add(&failures, 1);
        add(&code_answers, 1);
    }
}
static void rewrite(void)
{
    for (uint32_t round = 1; round <= rounds / 64; ++round) {
        write_code(round);
        code_round = round;
        wait_until(&code_answers, round * (cpus - 1));
        if (call_code() != round) add(&failures, 1);
    }
}

static void send(uint32_t to, uint32_t what)
{
    *dword_at(LAPIC_ICR_HIGH) = to << 24;
    *dword_at(LAPIC_ICR_LOW) = what;
    while ((*dword_at(LAPIC_ICR_LOW) & 0x1000) != 0) pause_once();
}

static struct {
    uint16_t low, selector, type, high;
} gates[256];

static void load_gates(void)
{
    const struct __attribute__((packed)) {
        uint16_t limit;
        void *base;
    } table = {sizeof gates - 1, gates};
    __asm__ volatile("lidt %0" ::"m"(table));
    *dword_at(LAPIC_SPURIOUS) = 0x1ff;
}

uint32_t current(void) { return *dword_at(LAPIC_ID) >> 24; }
void interrupted(void);
void interrupted(void)
{
    ++interrupts[current()];
    *dword_at(LAPIC_EOI) = 0;
}

static void step_done(uint32_t done)
{
    add(&finished, 1);
    while (phase == done) pause_once();
}

void ap_main(void)
{
    load_gates();
    const uint32_t me = current();
    add(&arrived, 1);
    while (phase == START) pause_once();
    if (phase == COUNT) {
        count();
        step_done(COUNT);
        lock_and_count();
        step_done(LOCK);
        if (me == 1) pass_messages();
        step_done(MESSAGE);
        run_rewritten();
        step_done(REWRITE);
        for (uint32_t i = interrupts[me]; i < 100; ++i) {
            const uint32_t before = interrupts[me];
            add(&finished, 1);
            while (interrupts[me] == before) wait_for_interrupt();
        }
    }
    for (;;) wait_for_interrupt();
}

static void next(uint32_t done)
{
    wait_until(&finished, cpus - 1);
    finished = 0;
    phase = done;
}

static uint32_t check(const char *what, uint32_t found, uint32_t wanted)
{
    print_line(what, found);
    return found == wanted ? 0 : found + 1;
}

static void start_others(void)
{
    arrived = 0;
    next_stack = STACKS;
    send(0, ICR_OTHERS | ICR_INIT);
    send(0, ICR_OTHERS | ICR_STARTUP | (TRAMPOLINE >> 12));
    wait_until(&arrived, cpus - 1);
}

uint32_t guest_main(void)
{
    cpus = option("cpus=", 2);
    rounds = option("rounds=", 20000);
    const uint32_t handler = (uint32_t)on_interrupt;
    uint16_t selector;
    __asm__("mov %%cs, %0" : "=r"(selector));
    gates[VECTOR].low = (uint16_t)handler;
    gates[VECTOR].selector = 8; /* of the trampoline's table */
    gates[VECTOR].type = 0x8e00;
    gates[VECTOR].high = (uint16_t)(handler >> 16);
    *dword_at(LAPIC_SPURIOUS) = 0x1ff;
    for (uint32_t i = 0; i < (uint32_t)(trampoline_end - trampoline_begin); ++i) {
        *byte_at(TRAMPOLINE + i) = trampoline_begin[i];
    }
    start_others();
    phase = COUNT;
    count();
    next(LOCK);
    lock_and_count();
    next(MESSAGE);
    const uint32_t neither = check_messages();
    next(REWRITE);
    rewrite();
    next(INTERRUPT);
    for (uint32_t i = 0; i < 100; ++i) {
        wait_until(&finished, cpus - 1);
        finished = 0;
        for (uint32_t cpu = 1; cpu < cpus; ++cpu) send(cpu, ICR_ASSERT | VECTOR);
    }
    uint32_t sum = 0;
    for (uint32_t cpu = 1; cpu < cpus; ++cpu) {
        while (interrupts[cpu] < 100) pause_once();
        sum += interrupts[cpu];
    }
    phase = RESTART;
    start_others(); /* once more, out of their halts */

    uint32_t wrong = check("counted", counter, cpus * rounds);
    wrong |= check("counted with a lock", guarded, cpus * (rounds / 8));
    wrong |= check("stores that neither saw", neither, 0);
    wrong |= check("interrupts", sum, (cpus - 1) * 100);
    wrong |= check("wrong messages and stale code", failures, 0);
    wrong |= check("started again", arrived, cpus - 1);
    return wrong;
}
