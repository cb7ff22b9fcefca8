/* Memory programs, and code that is run once. */
#include "suite.h"

#include <string.h>
#include <sys/mman.h>

static void *map(size_t bytes, int protection)
{
    void *mapped = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) give_up("mmap");
    return mapped;
}

/* Copies: a buffer that stays in the second-level cache, and one that does not. */

enum { near_bytes = 64 << 10, far_bytes = 8 << 20, near_copies = 16 };
static uint8_t *source;
static uint8_t *target;

static void copy_prepare(void)
{
    source = map(far_bytes, PROT_READ | PROT_WRITE);
    target = map(far_bytes, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < far_bytes; i += 8) memcpy(source + i, &i, sizeof i);
    memset(target, 1, far_bytes); /* so that no copy is the one that faults the pages in */
}

static void copy_finish(void)
{
    munmap(source, far_bytes);
    munmap(target, far_bytes);
}

static uint64_t copy_near_unit(void)
{
    for (size_t i = 0; i < near_copies; ++i) {
        memcpy(target, source + i * near_bytes, near_bytes);
        __asm__ volatile("" ::: "memory");
    }
    return target[8] + target[near_bytes - 7];
}

static uint64_t copy_far_unit(void)
{
    memcpy(target, source, far_bytes);
    __asm__ volatile("" ::: "memory");
    return target[far_bytes / 2 + 1] + target[far_bytes - 7];
}

/* A pointer chase: one cycle through all lines of 8 MiB, each load waiting for the last. */

enum { line_bytes = 64, chase_lines = (8 << 20) / line_bytes, chase_steps = 1 << 15 };

struct line {
    struct line *next;
    uint8_t rest[line_bytes - sizeof(struct line *)];
};
static struct line *lines;

/* Sattolo's shuffle makes a single cycle. */
static void chase_prepare(void)
{
    static uint32_t order[chase_lines];
    lines = map(chase_lines * sizeof *lines, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < chase_lines; ++i) order[i] = i;
    uint64_t random = 5;
    for (uint32_t i = chase_lines - 1; i > 0; --i) {
        uint32_t other = (uint32_t)(next_random(&random) % i);
        uint32_t swapped = order[i];
        order[i] = order[other];
        order[other] = swapped;
    }
    for (uint32_t i = 0; i < chase_lines; ++i) lines[i].next = &lines[order[i]];
}

static void chase_finish(void) { munmap(lines, chase_lines * sizeof *lines); }

/* From the same line each time, so that the result is the same. */
static uint64_t chase_unit(void)
{
    const struct line *at = lines;
    for (long i = 0; i < chase_steps; ++i) at = at->next;
    return (uint64_t)(at - lines);
}

/* Code that runs once: written into fresh memory, called, thrown away. Blocks of five
 * additions and a jump to the next, as long as common code has. */

enum {
    cold_blocks = 2048,
    cold_additions = 5,
    cold_instructions = cold_blocks * (cold_additions + 1),
    cold_bytes = cold_blocks * (cold_additions * 5 + 5) + 8
};

static uint8_t *put(uint8_t *at, uint8_t opcode, uint32_t operand)
{
    *at = opcode;
    memcpy(at + 1, &operand, sizeof operand);
    return at + 1 + sizeof operand;
}

static uint64_t cold_unit(void)
{
    const uint8_t mov_eax = 0xb8;
    const uint8_t add_eax = 0x05;
    const uint8_t jmp = 0xe9;
    const uint8_t ret = 0xc3;
    uint8_t *code = map(cold_bytes, PROT_READ | PROT_WRITE);
    uint8_t *at = put(code, mov_eax, 0);
    for (uint32_t block = 0; block < cold_blocks; ++block) {
        for (uint32_t i = 0; i < cold_additions; ++i) at = put(at, add_eax, block * 7 + i);
        at = put(at, jmp, 0);
    }
    *at = ret;
    if (mprotect(code, cold_bytes, PROT_READ | PROT_EXEC)) give_up("mprotect");
    uint32_t (*run)(void);
    memcpy(&run, &code, sizeof run);
    uint64_t result = run();
    munmap(code, cold_bytes);
    return result;
}

const struct program memory_programs[] = {
    {.name = "copy", .group = "memory", .operations = near_copies, .unit = copy_near_unit,
     .prepare = copy_prepare, .finish = copy_finish},
    {.name = "copy-large", .group = "memory", .operations = 1, .unit = copy_far_unit,
     .prepare = copy_prepare, .finish = copy_finish},
    {.name = "chase", .group = "memory", .operations = chase_steps, .unit = chase_unit,
     .prepare = chase_prepare, .finish = chase_finish},
    {.name = "cold-code", .group = "cold", .operations = cold_instructions, .unit = cold_unit},
    {0},
};
