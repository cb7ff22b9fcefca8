/* Integer programs: sorting, byte loops, pointers, and the three kinds of control flow that
 * cost a translator most (switches, calls with returns, indirect calls). */
#include "suite.h"

#include <stdlib.h>
#include <string.h>

/* Quicksort of random numbers: branches that no predictor knows. */

enum { sort_count = 16384, small_sort = 12 };
static uint32_t sorted[sort_count];

static void insertion_sort(uint32_t *values, long count)
{
    for (long i = 1; i < count; ++i) {
        uint32_t value = values[i];
        long hole = i;
        for (; hole > 0 && values[hole - 1] > value; --hole) values[hole] = values[hole - 1];
        values[hole] = value;
    }
}

static void quicksort(uint32_t *values, long count)
{
    while (count > small_sort) {
        uint32_t pivot = values[count / 2];
        long low = 0;
        long high = count - 1;
        while (low <= high) {
            while (values[low] < pivot) ++low;
            while (values[high] > pivot) --high;
            if (low > high) break;
            uint32_t swapped = values[low];
            values[low++] = values[high];
            values[high--] = swapped;
        }
        quicksort(values + low, count - low);
        count = high + 1;
    }
    insertion_sort(values, count);
}

static uint64_t sort_unit(void)
{
    uint64_t random = 0x9e3779b97f4a7c15;
    for (long i = 0; i < sort_count; ++i) sorted[i] = (uint32_t)next_random(&random);
    quicksort(sorted, sort_count);
    uint64_t result = 1;
    for (long i = 1; i < sort_count; ++i) {
        result = join(result, sorted[i] ^ (sorted[i - 1] <= sorted[i]));
    }
    return result;
}

/* Sieve of Eratosthenes: strided stores. */

enum { sieve_count = 1 << 19 };
static uint8_t composite[sieve_count];

static uint64_t sieve_unit(void)
{
    memset(composite, 0, sizeof composite);
    uint64_t primes = 0;
    for (uint32_t i = 2; i < sieve_count; ++i) {
        if (composite[i]) continue;
        ++primes;
        for (uint64_t j = (uint64_t)i * i; j < sieve_count; j += i) composite[j] = 1;
    }
    return primes;
}

/* FNV-1a of a buffer: a load and a multiplication per byte, one after the other. */

enum { hash_bytes = 1 << 18 };
static uint8_t hashed[hash_bytes];

static void hash_prepare(void)
{
    uint64_t random = 88172645463325252;
    for (long i = 0; i < hash_bytes; ++i) hashed[i] = (uint8_t)next_random(&random);
}

static uint64_t hash_unit(void)
{
    uint32_t hash = 2166136261;
    for (long i = 0; i < hash_bytes; ++i) hash = (hash ^ hashed[i]) * 16777619;
    return hash;
}

/* A binary tree on the heap: allocated, searched, freed. */

enum { tree_count = 4096, tree_searches = 4 };

struct node {
    struct node *child[2];
    uint64_t key;
};

static void tree_insert(struct node **root, uint64_t key)
{
    while (*root) root = &(*root)->child[key > (*root)->key];
    *root = malloc(sizeof **root);
    if (!*root) give_up("malloc");
    **root = (struct node){.key = key};
}

static uint64_t tree_depth_of(const struct node *node, uint64_t key)
{
    uint64_t depth = 0;
    for (; node && node->key != key; ++depth) node = node->child[key > node->key];
    return depth;
}

static void tree_free(struct node *node)
{
    if (!node) return;
    tree_free(node->child[0]);
    tree_free(node->child[1]);
    free(node);
}

static uint64_t tree_unit(void)
{
    struct node *root = NULL;
    uint64_t random = 42;
    for (long i = 0; i < tree_count; ++i) tree_insert(&root, next_random(&random));
    uint64_t result = 1;
    for (long i = 0; i < tree_searches; ++i) {
        random = 42;
        for (long j = 0; j < tree_count; ++j) {
            result += tree_depth_of(root, next_random(&random) + (uint64_t)(i & 1));
        }
    }
    tree_free(root);
    return result;
}

/* A bytecode interpreter: a jump through a table for every few instructions. */

enum opcode { push, add, multiply, divide, modulo, load, store, less, jump, jump_if_zero, stop };

/* Counts the steps of the Collatz sequences from 2 up to here. */
enum { collatz_end = 200, outer = 8, inner = 19, even = 52, next = 61, done = 70 };
static const int32_t collatz[] = {
    push, 2, store, 0,                            /*  0: n = 2 */
    push, 0, store, 2,                            /*  4: steps = 0 */
    load, 0, push, collatz_end, less,             /*  8: outer: while n < end */
    jump_if_zero, done,                           /* 13 */
    load, 0, store, 1,                            /* 15:   x = n */
    push, 1, load, 1, less, jump_if_zero, next,   /* 19: inner: while 1 < x */
    load, 2, push, 1, add, store, 2,              /* 26:     ++steps */
    load, 1, push, 2, modulo, jump_if_zero, even, /* 33:     if x is odd */
    load, 1, push, 3, multiply,                   /* 40:       x = 3x + 1 */
    push, 1, add, store, 1, jump, inner,          /* 45 */
    load, 1, push, 2, divide, store, 1,           /* 52: even: else x = x / 2 */
    jump, inner,                                  /* 59 */
    load, 0, push, 1, add, store, 0, jump, outer, /* 61: next: ++n */
    stop,                                         /* 70: done */
};

static uint64_t switch_unit(void)
{
    int64_t stack[8];
    int64_t variables[3] = {0};
    long top = 0;
    for (const int32_t *at = collatz;;) {
        switch ((enum opcode)*at++) {
        case push: stack[top++] = *at++; break;
        case add: --top; stack[top - 1] += stack[top]; break;
        case multiply: --top; stack[top - 1] *= stack[top]; break;
        case divide: --top; stack[top - 1] /= stack[top]; break;
        case modulo: --top; stack[top - 1] %= stack[top]; break;
        case load: stack[top++] = variables[*at++]; break;
        case store: variables[*at++] = stack[--top]; break;
        case less: --top; stack[top - 1] = stack[top - 1] < stack[top]; break;
        case jump: at = collatz + *at; break;
        case jump_if_zero: at = stack[--top] ? at + 1 : collatz + *at; break;
        case stop: return (uint64_t)variables[2];
        }
    }
}

/* Recursion: calls and returns, hardly anything between them. */

#define KEEP_CALLS __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))

enum { fibonacci_of = 22, fibonacci_calls = 57313 };

static KEEP_CALLS uint64_t fibonacci(uint64_t n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t calls_unit(void) { return fibonacci(fibonacci_of); }

/* Calls through a table: in an order that a processor's predictor learns, where it is the
 * translator that costs; and in a random one. */

enum { indirect_calls = 32768 };

#define TARGET(n, expression) \
    static KEEP_CALLS uint64_t target_##n(uint64_t x) { return expression; }
TARGET(0, x + 0x1234567)
TARGET(1, x ^ (x >> 7))
TARGET(2, x * 5)
TARGET(3, x - (x << 3))
TARGET(4, ~x)
TARGET(5, (x << 13) | (x >> 51))
TARGET(6, x + (x >> 32))
TARGET(7, x ^ 0x5555555555555555)

static uint64_t (*const volatile targets[])(uint64_t) = {
    target_0, target_1, target_2, target_3, target_4, target_5, target_6, target_7};

static uint64_t indirect_unit(void)
{
    uint64_t result = 1;
    for (long i = 0; i < indirect_calls; ++i) result = targets[i & 7](result);
    return result;
}

static uint64_t indirect_random_unit(void)
{
    uint64_t random = 7;
    uint64_t result = 1;
    for (long i = 0; i < indirect_calls; ++i) {
        result = targets[next_random(&random) >> 61](result);
    }
    return result;
}

const struct program integer_programs[] = {
    {.name = "sort", .group = "integer", .operations = sort_count, .unit = sort_unit},
    {.name = "sieve", .group = "integer", .operations = sieve_count, .unit = sieve_unit},
    {.name = "hash", .group = "integer", .operations = hash_bytes, .unit = hash_unit,
     .prepare = hash_prepare},
    {.name = "tree", .group = "integer", .operations = tree_count * (tree_searches + 1),
     .unit = tree_unit},
    {.name = "switch", .group = "integer", .operations = 1, .unit = switch_unit},
    {.name = "calls", .group = "integer", .operations = fibonacci_calls, .unit = calls_unit},
    {.name = "indirect", .group = "integer", .operations = indirect_calls, .unit = indirect_unit},
    {.name = "indirect-random", .group = "integer", .operations = indirect_calls,
     .unit = indirect_random_unit},
    {0},
};
