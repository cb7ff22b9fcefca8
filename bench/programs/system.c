/* Programs of the system's services: what the kernel does for a process. */
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The shortest system call. */

enum { null_calls = 256 };

static uint64_t null_unit(void)
{
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);
    for (long i = 0; i < null_calls; ++i) same += syscall(SYS_getppid) == parent;
    return same;
}

/* Processes: a copy of this one that ends at once, and one that becomes the program "tiny",
 * which lies beside this one. */

enum { forks = 4, executions = 2, tiny_status = 42 };
static char tiny_path[4096];

static int status_of(pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) give_up("waitpid");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint64_t fork_unit(void)
{
    uint64_t ended = 0;
    for (int i = 0; i < forks; ++i) {
        pid_t child = fork();
        if (child < 0) give_up("fork");
        if (!child) _exit(i);
        ended += status_of(child) == i;
    }
    return ended;
}

static void exec_prepare(void)
{
    ssize_t length = readlink("/proc/self/exe", tiny_path, sizeof tiny_path - sizeof "tiny");
    if (length <= 0) give_up("/proc/self/exe");
    tiny_path[length] = '\0';
    strcpy(strrchr(tiny_path, '/') + 1, "tiny");
    if (access(tiny_path, X_OK)) give_up(tiny_path);
}

static uint64_t exec_unit(void)
{
    char *const arguments[] = {tiny_path, NULL};
    char *const environment[] = {NULL};
    uint64_t ended = 0;
    for (int i = 0; i < executions; ++i) {
        pid_t child = fork();
        if (child < 0) give_up("fork");
        if (!child) {
            execve(tiny_path, arguments, environment);
            _exit(1);
        }
        ended += status_of(child) == tiny_status;
    }
    return ended;
}

/* First touches of anonymous memory, in small pages whatever this machine prefers. */

enum { page_bytes = 4096, fault_pages = 256 };

static volatile uint8_t *map(size_t bytes)
{
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) give_up("mmap");
    return mapped;
}

static uint64_t fault_unit(void)
{
    volatile uint8_t *pages = map(fault_pages * page_bytes);
    /* Fails where there are no others: good. */
    madvise((void *)pages, fault_pages * page_bytes, MADV_NOHUGEPAGE);
    uint64_t zeros = 0;
    for (size_t i = 0; i < fault_pages * page_bytes; i += page_bytes) {
        pages[i] = 1;
        zeros += pages[i + 1] == 0;
    }
    munmap((void *)pages, fault_pages * page_bytes);
    return zeros;
}

/* A mapping made, touched once, and taken away. */

enum { map_cycles = 16, map_bytes = 64 << 10 };

static uint64_t mmap_unit(void)
{
    uint64_t zeros = 0;
    for (int i = 0; i < map_cycles; ++i) {
        volatile uint8_t *mapped = map(map_bytes);
        zeros += mapped[map_bytes / 2] == 0;
        mapped[map_bytes / 2] = 1;
        munmap((void *)mapped, map_bytes);
    }
    return zeros;
}

/* A byte to another process and back. */

enum { round_trips = 32 };
static int to_child[2];
static int to_parent[2];
static pid_t partner;

static void pipe_prepare(void)
{
    if (pipe(to_child) || pipe(to_parent)) give_up("pipe");
    partner = fork();
    if (partner < 0) give_up("fork");
    if (!partner) {
        uint8_t byte;
        close(to_child[1]);
        close(to_parent[0]);
        while (read(to_child[0], &byte, 1) == 1) {
            ++byte;
            if (write(to_parent[1], &byte, 1) != 1) break;
        }
        _exit(0);
    }
    close(to_child[0]);
    close(to_parent[1]);
}

static uint64_t pipe_unit(void)
{
    uint8_t byte = 0;
    for (int i = 0; i < round_trips; ++i) {
        if (write(to_child[1], &byte, 1) != 1 || read(to_parent[0], &byte, 1) != 1) {
            give_up("pipe");
        }
    }
    return byte;
}

static void pipe_finish(void)
{
    close(to_child[1]);
    close(to_parent[0]);
    status_of(partner);
}

/* A byte through a ring of processes that all use some memory of theirs: of few and of many, which
 * shows whether there is a number of processes from which on each costs more. */

enum { few = 6, many = 60, own_pages = 8, page = 4096 };
static uint8_t own[own_pages * page];
static int first_of_ring, last_of_ring;
static pid_t ring[many];
static int ring_size;

static void ring_prepare_of(int size)
{
    int begin[2];
    if (pipe(begin)) give_up("pipe");
    first_of_ring = begin[1];
    int from = begin[0];
    for (ring_size = 0; ring_size < size; ++ring_size) {
        int to[2];
        if (pipe(to)) give_up("pipe");
        pid_t child = fork();
        if (child < 0) give_up("fork");
        if (!child) {
            uint8_t byte;
            close(first_of_ring);
            close(to[0]);
            while (read(from, &byte, 1) == 1) {
                ++byte;
                for (int i = 0; i < own_pages; ++i) own[i * page] += byte;
                if (write(to[1], &byte, 1) != 1) break;
            }
            _exit(0);
        }
        ring[ring_size] = child;
        close(from);
        close(to[1]);
        from = to[0];
    }
    last_of_ring = from;
}

static void ring_few_prepare(void) { ring_prepare_of(few); }
static void ring_many_prepare(void) { ring_prepare_of(many); }

static uint64_t ring_unit(void)
{
    uint8_t byte = 0;
    if (write(first_of_ring, &byte, 1) != 1 || read(last_of_ring, &byte, 1) != 1) give_up("ring");
    return byte;
}

static void ring_finish(void)
{
    close(first_of_ring);
    for (int i = 0; i < ring_size; ++i) status_of(ring[i]);
    close(last_of_ring);
}

/* A signal to oneself: the kernel's frame, the handler, the return. */

enum { signals = 32 };
static volatile sig_atomic_t handled;
static pid_t self;

static void on_signal(int number)
{
    (void)number;
    ++handled;
}

static void signal_prepare(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    if (sigaction(SIGUSR1, &action, NULL)) give_up("sigaction");
    self = getpid();
}

static uint64_t signal_unit(void)
{
    handled = 0;
    for (int i = 0; i < signals; ++i) kill(self, SIGUSR1);
    return (uint64_t)handled;
}

/* The kernel clears memory of ours. */

enum { zero_bytes = 64 << 10, zero_reads = 4 };
static uint8_t zeros_read[zero_bytes];
static int zero_file;

static void zero_prepare(void)
{
    zero_file = open("/dev/zero", O_RDONLY);
    if (zero_file < 0) give_up("/dev/zero");
}

static uint64_t zero_unit(void)
{
    uint64_t bytes = 0;
    for (int i = 0; i < zero_reads; ++i) {
        zeros_read[zero_bytes - 1] = 1;
        ssize_t got = read(zero_file, zeros_read, zero_bytes);
        if (got < 0) give_up("/dev/zero");
        bytes += (uint64_t)got + zeros_read[zero_bytes - 1];
    }
    return bytes;
}

static void zero_finish(void) { close(zero_file); }

const struct program system_programs[] = {
    {.name = "null-call", .group = "system", .operations = null_calls + 1, .unit = null_unit},
    {.name = "fork", .group = "system", .operations = forks, .unit = fork_unit},
    {.name = "fork-exec", .group = "system", .operations = executions, .unit = exec_unit,
     .prepare = exec_prepare},
    {.name = "page-fault", .group = "system", .operations = fault_pages, .unit = fault_unit},
    {.name = "mmap", .group = "system", .operations = map_cycles, .unit = mmap_unit},
    {.name = "pipe", .group = "system", .operations = round_trips, .unit = pipe_unit,
     .prepare = pipe_prepare, .finish = pipe_finish},
    {.name = "ring-6", .group = "system", .operations = few, .unit = ring_unit,
     .prepare = ring_few_prepare, .finish = ring_finish},
    {.name = "ring-60", .group = "system", .operations = many, .unit = ring_unit,
     .prepare = ring_many_prepare, .finish = ring_finish},
    {.name = "signal", .group = "system", .operations = signals, .unit = signal_unit,
     .prepare = signal_prepare},
    {.name = "read-zero", .group = "system", .operations = zero_reads, .unit = zero_unit,
     .prepare = zero_prepare, .finish = zero_finish},
    {0},
};
