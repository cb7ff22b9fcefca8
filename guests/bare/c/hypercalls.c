/* What processors ask of each other by hypercalls of KVM's interface: to end a halt, to interrupt
   several, to get a turn. What nobody may ask for is refused. "cpus=N rounds=N", and "pause=N" to
   measure how long it takes until another processor answers that waited for so many us. */
#include "machine.h"

#define LAPIC 0xfee00000u
#define LAPIC_ID (LAPIC + 0x20)
#define LAPIC_EOI (LAPIC + 0xb0)
#define LAPIC_SPURIOUS (LAPIC + 0xf0)
#define LAPIC_ICR_LOW (LAPIC + 0x300)
#define LAPIC_ICR_HIGH (LAPIC + 0x310)
#define ICR_INIT 0x4500u
#define ICR_STARTUP 0x4600u
#define ICR_NMI 0x400u
#define ICR_LOGICAL 0x800u
#define ICR_OTHERS 0xc0000u
#define VECTOR 0x40u
#define TRAMPOLINE 0x8000u
#define STACKS 0x200000u
#define MOST 32u
#define SAMPLES 201u

#define FEATURES 0x2880u /* PV unhalt, PV IPIs, PV yield */
#define KVM_HC_KICK_CPU 5u
#define KVM_HC_SEND_IPI 10u
#define KVM_HC_SCHED_YIELD 11u
#define KVM_EINVAL 22u
#define KVM_ENOSYS 1000u

/* smp_entry.S */
extern const uint8_t trampoline_begin[], trampoline_end[];
extern volatile uint32_t next_stack;
void on_interrupt(void);
void wait_for_interrupt(void); /* STI, HLT, CLI */
void ap_main(void);
void interrupted(void);

enum phase { KICKS, HALTED, RUNNING, END };

static volatile uint32_t arrived, phase, left_phase, ticket;
static volatile uint32_t answers[MOST], interrupts[MOST], nmis[MOST];
static uint32_t cpus, rounds, mhz, pause_us;

static void pause_once(void) { __asm__ volatile("pause" ::: "memory"); }
static void add(volatile uint32_t *to, uint32_t value)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(value), "+m"(*to)::"memory");
}
static uint32_t clock_ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
    return low;
}
static void cpuid(uint32_t leaf, uint32_t *a, uint32_t *b)
{
    uint32_t c = 0, d;
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "+c"(c), "=d"(d) : "a"(leaf));
}
static uint32_t me(void) { return *dword_at(LAPIC_ID) >> 24; }

static uint32_t vmcall(uint32_t number, uint32_t b, uint32_t c, uint32_t d, uint32_t s)
{
    __asm__ volatile("vmcall" : "+a"(number) : "b"(b), "c"(c), "d"(d), "S"(s) : "memory");
    return number;
}
static uint32_t vmmcall(uint32_t number, uint32_t b, uint32_t c, uint32_t d, uint32_t s)
{
    __asm__ volatile("vmmcall" : "+a"(number) : "b"(b), "c"(c), "d"(d), "S"(s) : "memory");
    return number;
}
static void yield_to(uint32_t cpu) { vmmcall(KVM_HC_SCHED_YIELD, cpu, 0, 0, 0); }
static void kick(uint32_t cpu) { vmcall(KVM_HC_KICK_CPU, 0, cpu, 0, 0); }
static uint32_t send_ipis(uint32_t low, uint32_t high, uint32_t lowest, uint32_t icr)
{
    return vmcall(KVM_HC_SEND_IPI, low, high, lowest, icr);
}
static void send(uint32_t to, uint32_t what)
{
    *dword_at(LAPIC_ICR_HIGH) = to << 24;
    *dword_at(LAPIC_ICR_LOW) = what;
}

static struct {
    uint16_t low, selector, type, high;
} gates[256];

struct __attribute__((packed)) table {
    uint16_t limit;
    const void *base;
};

/* What the trampoline gives the others. */
static void load_segments(void)
{
    static const uint64_t segments[] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
    const struct table table = {sizeof segments - 1, segments};
    __asm__ volatile("lgdt %0; ljmp $8, $1f; 1:" ::"m"(table));
}
static void load_gates(void)
{
    const struct table table = {sizeof gates - 1, gates};
    __asm__ volatile("lidt %0" ::"m"(table));
    *dword_at(LAPIC_SPURIOUS) = 0x1ff;
}

void interrupted(void)
{
    ++interrupts[me()];
    *dword_at(LAPIC_EOI) = 0;
}
struct frame;
static __attribute__((interrupt)) void on_nmi(struct frame *frame)
{
    (void)frame;
    ++nmis[me()];
}

static void set_gate(uint32_t vector, uint32_t handler)
{
    gates[vector].low = (uint16_t)handler;
    gates[vector].selector = 8;
    gates[vector].type = 0x8e00;
    gates[vector].high = (uint16_t)(handler >> 16);
}

/* Without interrupts: a kick alone ends the halt. One that comes between the look and the halt must
   not be lost. */
static void wait_for_tickets(uint32_t cpu)
{
    while (phase == KICKS) {
        const uint32_t now = ticket;
        if (answers[cpu] == now) {
            __asm__ volatile("hlt" ::: "memory");
        } else {
            answers[cpu] = now;
        }
    }
    add(&left_phase, 1);
}

void ap_main(void)
{
    load_gates();
    const uint32_t cpu = me();
    add(&arrived, 1);
    wait_for_tickets(cpu);
    while (phase == HALTED) wait_for_interrupt();
    __asm__ volatile("sti" ::: "memory");
    while (phase == RUNNING) {
        if (pause_us != 0) {
            pause_once();
        } else {
            yield_to(0);
        }
    }
    add(&left_phase, 1);
    for (;;) wait_for_interrupt();
}

static void start_others(void)
{
    for (uint32_t i = 0; i < (uint32_t)(trampoline_end - trampoline_begin); ++i) {
        *byte_at(TRAMPOLINE + i) = trampoline_begin[i];
    }
    next_stack = STACKS;
    send(0, ICR_OTHERS | ICR_INIT);
    send(0, ICR_OTHERS | ICR_STARTUP | (TRAMPOLINE >> 12));
    while (arrived != cpus - 1) pause_once();
}

static uint32_t check(const char *what, uint32_t found, uint32_t wanted)
{
    if (found == wanted) return 0;
    print_line(what, found);
    return 1;
}

/* ---- answers --------------------------------------------------------------------------------------- */

static uint32_t check_refusals(void)
{
    uint32_t wrong = 0;
    wrong += check("unknown", vmcall(4711, 0, 0, 0, 0), -KVM_ENOSYS);
    wrong += check("unknown, by the other instruction", vmmcall(0, 0, 0, 0, 0), -KVM_ENOSYS);
    wrong += check("to logical destinations", send_ipis(1, 0, 0, ICR_LOGICAL | VECTOR), -KVM_EINVAL);
    wrong += check("to all others", send_ipis(1, 0, 0, ICR_OTHERS | VECTOR), -KVM_EINVAL);
    /* Nobody there. */
    wrong += check("to APIC IDs that are none", send_ipis(~0u, ~0u, cpus, VECTOR), 0);
    wrong += check("to the last APIC IDs", send_ipis(~0u, ~0u, ~0u, VECTOR), 0);
    wrong += check("a kick for nobody", vmcall(KVM_HC_KICK_CPU, 0, ~0u, 0, 0), 0);
    wrong += check("a turn for nobody", vmcall(KVM_HC_SCHED_YIELD, ~0u, 0, 0, 0), 0);
    for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
        wrong += check("interrupted for nothing", interrupts[cpu], 0);
    }
    return wrong;
}

static void kick_itself(void)
{
    kick(0);
    kick(0);
    __asm__ volatile("hlt" ::: "memory"); /* interrupts are off: one of two kicks ends it */
}

static void answer_tickets(void)
{
    for (uint32_t round = 1; round <= rounds; ++round) {
        ticket = round;
        for (uint32_t cpu = 1; cpu < cpus; ++cpu) kick(cpu);
        for (uint32_t cpu = 1; cpu < cpus; ++cpu) {
            while (answers[cpu] != round) yield_to(cpu);
        }
        /* They halt now, or are about to, or not yet. */
        for (uint32_t i = 0; i < round * 7 % 64; ++i) pause_once();
    }
}

static void leave(uint32_t done)
{
    left_phase = 0;
    phase = done + 1;
}

/* All, the sender included, by one call. */
static uint32_t interrupt_all(uint32_t icr, volatile uint32_t *counts)
{
    uint32_t wrong = 0;
    const uint32_t all = cpus == 32 ? ~0u : (1u << cpus) - 1;
    for (uint32_t round = 1; round <= rounds; ++round) {
        /* From APIC ID 0 on, and once more as those behind nobody. */
        const uint32_t taken =
            (round & 1) != 0 ? send_ipis(all, 0, 0, icr) : send_ipis(all >> 1, 0, 1, icr) + 1;
        if ((round & 1) == 0) send_ipis(1, 0, 0, icr);
        wrong += taken == cpus ? 0 : 1;
        for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
            while (counts[cpu] != round) yield_to(cpu);
        }
    }
    return wrong;
}

/* ---- how long it takes ------------------------------------------------------------------------------ */

static uint32_t samples[SAMPLES];

static void print_median(const char *what)
{
    for (uint32_t i = 1; i < SAMPLES; ++i) {
        const uint32_t value = samples[i];
        uint32_t at = i;
        for (; at != 0 && samples[at - 1] > value; --at) samples[at] = samples[at - 1];
        samples[at] = value;
    }
    print_line(what, samples[SAMPLES / 2] / (mhz / 100 + 1) * 10);
}

static void settle(void)
{
    const uint32_t since = clock_ticks();
    while (clock_ticks() - since < mhz * pause_us) pause_once();
}

static void measure_kicks(const char *what)
{
    for (uint32_t i = 0; i < SAMPLES; ++i) {
        settle();
        const uint32_t since = clock_ticks();
        const uint32_t next = ticket + 1;
        ticket = next;
        kick(1);
        while (answers[1] != next) pause_once();
        samples[i] = clock_ticks() - since;
    }
    print_median(what);
}

/* To `to` processors: by a call, or each by itself. */
static void measure_interrupts(const char *what, uint32_t to, uint32_t by_call)
{
    for (uint32_t i = 0; i < SAMPLES; ++i) {
        settle();
        uint32_t before[MOST];
        for (uint32_t cpu = 1; cpu <= to; ++cpu) before[cpu] = interrupts[cpu];
        const uint32_t since = clock_ticks();
        if (by_call) {
            send_ipis((1u << to) - 1, 0, 1, VECTOR);
        } else {
            for (uint32_t cpu = 1; cpu <= to; ++cpu) send(cpu, VECTOR);
        }
        for (uint32_t cpu = 1; cpu <= to; ++cpu) {
            while (interrupts[cpu] == before[cpu]) pause_once();
        }
        samples[i] = clock_ticks() - since;
    }
    print_median(what);
}

uint32_t guest_main(void)
{
    cpus = option("cpus=", 2);
    rounds = option("rounds=", 1000);
    pause_us = option("pause=", 0);
    const uint32_t measured = cpus == 1 || pause_us == 0 ? 0 : 1;
    uint32_t a, b, wrong = 0;
    cpuid(0x40000000, &a, &b);
    wrong += check("KVM's name", b, 0x4b4d564b);
    cpuid(0x40000001, &a, &b);
    wrong += check("features", a & FEATURES, FEATURES);
    cpuid(0x40000110, &a, &b);
    mhz = a / 1000;
    if (wrong != 0) return wrong;
    set_gate(VECTOR, (uint32_t)on_interrupt);
    set_gate(2, (uint32_t)on_nmi);
    load_segments();
    load_gates();
    start_others();

    wrong += check_refusals();
    kick_itself();
    answer_tickets();
    print_line("kicks answered", ticket);
    if (measured) measure_kicks("ns, a kick of a halted processor:");
    leave(KICKS);
    while (left_phase != cpus - 1) {
        for (uint32_t cpu = 1; cpu < cpus; ++cpu) kick(cpu);
    }

    if (measured) {
        measure_interrupts("ns, an interrupt to a halted processor:", 1, 0);
        measure_interrupts("ns, the same by a call:", 1, 1);
    }
    if (measured && cpus > 2) {
        measure_interrupts("ns, an interrupt to each of the others, halted:", cpus - 1, 0);
        measure_interrupts("ns, the same by a call:", cpus - 1, 1);
    }
    for (uint32_t cpu = 0; cpu < cpus; ++cpu) interrupts[cpu] = 0;
    __asm__ volatile("sti" ::: "memory");
    wrong += check("rounds, not all were interrupted", interrupt_all(VECTOR, interrupts), 0);
    leave(HALTED);
    send_ipis(~0u, 0, 1, VECTOR);
    if (measured) {
        measure_interrupts("ns, an interrupt to a running processor:", 1, 0);
        measure_interrupts("ns, the same by a call:", 1, 1);
    }
    wrong += check("rounds without an NMI for all", interrupt_all(ICR_NMI, nmis), 0);
    leave(RUNNING);
    while (left_phase != cpus - 1) pause_once();
    return wrong;
}
