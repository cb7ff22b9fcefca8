/* Several processors in 64-bit mode: starts them, has each run order64.c, in the lower or the upper
   half of the address space, and says what they found. "cpus=N rounds=N", and "orders=N" for other rounds where memory order is looked at. */
#include "order.h"

#include "machine.h"

#define LAPIC 0xfee00000u
#define LAPIC_ID (LAPIC + 0x20)
#define LAPIC_ICR_LOW (LAPIC + 0x300)
#define ICR_INIT 0x4500u
#define ICR_STARTUP 0x4600u
#define ICR_OTHERS 0xc0000u
#define TRAMPOLINE 0x8000u
#define STACKS 0x200000u

/* smp_entry.S */
extern const uint8_t trampoline_begin[], trampoline_end[];
extern volatile uint32_t next_stack;
void ap_main(void);
void interrupted(void);

/* order_entry.S: calls order_run() there in 64-bit mode, and comes back. */
void run_64(uint32_t me, struct order_work *work, uint32_t upper_half);
extern uint64_t top_table[], low_table[], high_table[], page_table[];

static struct order_work work;
static volatile uint32_t go, done;
enum { LOWER = 1, UPPER, MIXED, END };

void interrupted(void) {}

static void pause_once(void) { __asm__ volatile("pause" ::: "memory"); }
static void add(volatile uint32_t *to, uint32_t value)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(value), "+m"(*to)::"memory");
}

static void run(uint32_t me, uint32_t where)
{
    run_64(me, &work, where == UPPER || (where == MIXED && (me & 1) != 0));
}

void ap_main(void)
{
    const uint32_t me = *dword_at(LAPIC_ID) >> 24;
    for (uint32_t where = LOWER; where < END; ++where) {
        while (go < where) pause_once();
        run(me, where);
        add(&done, 1);
    }
    for (;;) __asm__ volatile("cli; hlt");
}

static void map(void)
{
    for (uint32_t i = 0; i < 512; ++i) page_table[i] = (uint64_t)i << 21 | 0x83;
    low_table[0] = (uint32_t)page_table | 3u;
    high_table[510] = (uint32_t)page_table | 3u;
    top_table[0] = (uint32_t)low_table | 3u;
    top_table[511] = (uint32_t)high_table | 3u;
}

static uint32_t check(const char *what, uint32_t found, uint32_t wanted)
{
    if (found == wanted) return 0;
    print_line(what, found);
    return 1;
}

static uint32_t checks(void)
{
    uint32_t wrong = 0;
    const uint32_t *const seen = work.reordered;
    wrong += check("fenced stores that neither saw", seen[STORES_FENCED], 0);
    wrong += check("exchanges that neither saw", seen[STORES_EXCHANGED], 0);
    wrong += check("messages behind their flags", seen[MESSAGE], 0);
    wrong += check("messages behind exchanged flags", seen[MESSAGE_EXCHANGED], 0);
    wrong += check("loads of what was stored later", seen[LOADS], 0);
    wrong += check("loads of what was exchanged later", seen[LOADS_EXCHANGED], 0);
    wrong += check("stores in two orders", seen[WRITERS_AND_READERS], 0);
    wrong += check("exchanges in two orders", seen[WRITERS_AND_READERS_EXCHANGED], 0);
    const uint32_t all = work.cpus * work.rounds * 64;
    wrong += check("lock inc", work.counts.inc, all);
    wrong += check("lock inc across cache lines", work.counts.across, all);
    wrong += check("lock cmpxchg", work.counts.swapped, all);
    wrong += check("guarded by lock bts", work.counts.guarded, all);
    wrong += check("stale code", work.wrong_code, 0);
    return wrong;
}

uint32_t guest_main(void)
{
    work.cpus = option("cpus=", 2);
    work.rounds = option("rounds=", 20);
    work.orders = option("orders=", work.rounds);
    map();
    for (uint32_t i = 0; i < (uint32_t)(trampoline_end - trampoline_begin); ++i) {
        *byte_at(TRAMPOLINE + i) = trampoline_begin[i];
    }
    next_stack = STACKS;
    *dword_at(LAPIC_ICR_LOW) = ICR_OTHERS | ICR_INIT;
    *dword_at(LAPIC_ICR_LOW) = ICR_OTHERS | ICR_STARTUP | (TRAMPOLINE >> 12);
    uint32_t wrong = 0;
    for (uint32_t where = LOWER; where < END; ++where) {
        go = where;
        run(0, where);
        while (done != work.cpus - 1) pause_once();
        done = 0;
        wrong += checks();
        print_line("half", where);
        print_line("stores that neither saw, as they may:", work.reordered[STORES]);
        work.counts = (struct order_counts){0, 0, 0, 0, 0};
    }
    return wrong;
}
