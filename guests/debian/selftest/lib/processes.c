/* What programs do to themselves: code made at run time, faults that are handled, mappings that
   change, threads, forks. Prints what it found; the same on every machine. */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef int (*made_code)(int);

/* mov $n, %eax; add %edi, %eax; ret */
static void write_code(unsigned char *at, int n)
{
    at[0] = 0xb8;
    memcpy(at + 1, &n, 4);
    memcpy(at + 5, "\x01\xf8\xc3", 3);
}

static void code_made_at_run_time(void)
{
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long sum = 0;
    for (int i = 0; i < 20000; ++i) {
        write_code(page + i % 5 * 64, i);
        sum += ((made_code)(void *)(page + i % 5 * 64))(1);
    }
    printf("rewritten %ld\n", sum);

    /* Two mappings of one memory: written through one, run through the other. */
    int file = memfd_create("code", 0);
    if (ftruncate(file, 65536) != 0) abort();
    unsigned char *write = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned char *run = mmap(NULL, 65536, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    sum = 0;
    for (int i = 0; i < 3000; ++i) {
        write_code(write + i * 16 % 65536, i);
        sum += ((made_code)(void *)(run + i * 16 % 65536))(2);
    }
    printf("two mappings %ld\n", sum);

    /* Written, then made executable, over and over. */
    sum = 0;
    for (int i = 0; i < 500; ++i) {
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
        write_code(page, i);
        mprotect(page, 4096, PROT_READ | PROT_EXEC);
        sum += ((made_code)(void *)page)(3);
    }
    printf("protected %ld\n", sum);

    /* Other code at the same address. */
    sum = 0;
    for (int i = 0; i < 300; ++i) {
        munmap(page, 4096);
        mmap(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
             -1, 0);
        write_code(page, i);
        sum += ((made_code)(void *)page)(4);
    }
    printf("mapped again %ld\n", sum);

    /* A loop that overwrites its own next instruction:
       1: incb 2f+1; 2: mov $0, %al; add %eax, %edx...; dec %ecx; jnz 1b */
    static const unsigned char own[] = {
        0x31, 0xc0, 0x31, 0xd2, 0xb9, 100, 0, 0, 0, /* xor eax,eax; xor edx,edx; mov ecx,100 */
        0xfe, 0x05, 1, 0, 0, 0,                     /* incb 1(%rip) */
        0xb0, 0,                                    /* mov al, n */
        0x01, 0xc2,                                 /* add edx, eax */
        0xff, 0xc9, 0x75, 0xf2 - 2,                 /* dec ecx; jnz back */
        0x89, 0xd0, 0xc3};
    mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(page, own, sizeof own);
    page[22] = (unsigned char)(9 - 23);
    printf("own next instruction %d\n", ((made_code)(void *)page)(0));
    munmap(page, 4096);
}

static sigjmp_buf back;
static volatile uintptr_t fault_address;
static volatile int fault_code, fault_trap;

static void on_fault(int number, siginfo_t *info, void *context)
{
    fault_address = (uintptr_t)info->si_addr;
    fault_code = info->si_code;
    fault_trap = (int)((ucontext_t *)context)->uc_mcontext.gregs[REG_TRAPNO];
    siglongjmp(back, number);
}

#define TRIES(what, code)                                                                    \
    do {                                                                                     \
        int got = sigsetjmp(back, 1);                                                        \
        if (got == 0) {                                                                      \
            code;                                                                            \
            printf("%s: no signal\n", what);                                                 \
        } else {                                                                             \
            printf("%s: signal %d code %d trap %d\n", what, got, fault_code, fault_trap);    \
        }                                                                                    \
    } while (0)

static void faults(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (unsigned i = 0; i < 5; ++i) sigaction(signals[i], &action, NULL);
    volatile char *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRIES("null", *(volatile int *)0 = 1);
    TRIES("read only", page[5] = 1);
    printf("at %d\n", (int)(fault_address - (uintptr_t)page));
    TRIES("not canonical", (void)*(volatile char *)0x8000000000000000ull);
    TRIES("kernel", (void)*(volatile char *)0xffffffff81000000ull);
    TRIES("kernel code", ((void (*)(void))0xffffffff81000000ull)());
    TRIES("no execution", ((void (*)(void))(uintptr_t)page)());
    TRIES("division", __asm__ volatile("idivl %0" ::"r"(0), "a"(1), "d"(0)));
    TRIES("division overflow", __asm__ volatile("idivl %0" ::"r"(-1), "a"(0), "d"(0x80000000)));
    TRIES("ud2", __asm__ volatile("ud2"));
    TRIES("int3", __asm__ volatile("int3"));
    TRIES("hlt", __asm__ volatile("hlt"));
    TRIES("cli", __asm__ volatile("cli"));
    TRIES("in", __asm__ volatile("inb $0x60, %%al" ::: "al"));
    TRIES("mov cr0", __asm__ volatile("mov %%cr0, %%rax" ::: "rax"));
    TRIES("rdmsr", __asm__ volatile("rdmsr" ::"c"(0x10) : "eax", "edx"));
    TRIES("int 13", __asm__ volatile("int $13"));
    TRIES("single step", __asm__ volatile("pushfq; orl $0x100, (%rsp); popfq; nop; nop"));
    TRIES("aligned", __asm__ volatile("movaps 1(%0), %%xmm0" ::"r"(page) : "xmm0"));
    feenableexcept(FE_DIVBYZERO);
    volatile double nothing = 0;
    TRIES("float", nothing = 1.0 / nothing);
    fedisableexcept(FE_ALL_EXCEPT);
    feclearexcept(FE_ALL_EXCEPT);
    int count = 0;
    for (int i = 0; i < 2000; ++i) {
        if (sigsetjmp(back, 1) == 0) page[4096] = 1;
        else ++count;
    }
    printf("faults %d\n", count);
    int file = memfd_create("short", 0);
    volatile char *beyond = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
    TRIES("beyond a file", (void)*beyond);
    for (unsigned i = 0; i < 5; ++i) signal(signals[i], SIG_DFL);
}

/* Pages that are opened by their own fault handler, as garbage collectors do it. */
static char *heap;
static void open_page(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    mprotect((void *)((uintptr_t)info->si_addr & ~4095ull), 4096, PROT_READ | PROT_WRITE);
}
static void lazy_pages(void)
{
    struct sigaction action = {.sa_sigaction = open_page, .sa_flags = SA_SIGINFO}, old;
    sigaction(SIGSEGV, &action, &old);
    heap = mmap(NULL, 4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long sum = 0;
    for (unsigned i = 0; i < 1024; ++i) {
        unsigned at = i * 389 % 1024 * 4096;
        memset(heap + at, (int)i, 4096);
        sum += (unsigned char)heap[at + 17];
    }
    sigaction(SIGSEGV, &old, NULL);
    printf("lazy pages %lu\n", sum);
}

static atomic_long shared_sum;
static long plain_sum;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static int whose;
static _Thread_local long own_sum;

static void *work(void *number)
{
    for (long i = 0; i < 20000; ++i) {
        atomic_fetch_add(&shared_sum, i);
        own_sum += i;
        if (i % 16 == 0) {
            pthread_mutex_lock(&lock);
            plain_sum += i;
            pthread_mutex_unlock(&lock);
        }
    }
    for (int round = 0; round < 200; ++round) {
        pthread_mutex_lock(&lock);
        while (whose != (int)(intptr_t)number) pthread_cond_wait(&turn, &lock);
        whose = (whose + 1) % 6;
        pthread_cond_broadcast(&turn);
        pthread_mutex_unlock(&lock);
    }
    return (void *)own_sum;
}

static void threads(void)
{
    pthread_t all[6];
    long total = 0;
    for (intptr_t i = 0; i < 6; ++i) pthread_create(&all[i], NULL, work, (void *)i);
    for (int i = 0; i < 6; ++i) {
        void *result;
        pthread_join(all[i], &result);
        total += (long)result;
    }
    printf("threads %ld %ld %ld\n", atomic_load(&shared_sum), plain_sum, total);
}

static void forks(void)
{
    enum { size = 2 << 20 };
    unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < size; ++i) memory[i] = (unsigned char)(i * 7);
    unsigned total = 0;
    for (int child = 0; child < 30; ++child) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            unsigned sum = 0;
            for (unsigned i = (unsigned)child; i < size; i += 512) memory[i] = (unsigned char)child;
            for (unsigned i = 0; i < size; ++i) sum = sum * 31 + memory[i];
            _exit((int)(sum >> 24) ^ child);
        }
        int status;
        waitpid(pid, &status, 0);
        total = total * 31 + (unsigned)status;
    }
    unsigned sum = 0;
    for (unsigned i = 0; i < size; ++i) sum = sum * 31 + memory[i];
    printf("forks %u %u\n", total, sum);
}

static void rounding(void)
{
    const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (int i = 0; i < 4; ++i) {
        fesetround(modes[i]);
        volatile double a = 1, b = 3;
        volatile long double c = 2;
        volatile float d = 1e10f;
        getppid(); /* The mode lives through a system call. */
        printf("rounding %a %La %a %ld\n", a / b, sqrtl(c), (double)(d * 3.3f), lrint(a / b * 10));
    }
    fesetround(FE_TONEAREST);
    volatile long double x = 1.0L;
    for (int i = 1; i < 60; ++i) x = x * 1.000001L + sinl(x) / i;
    printf("long double %La\n", x);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int number)
{
    (void)number;
    /* Vector registers of what was interrupted must not see this. */
    volatile double x = 1.5;
    for (int i = 0; i < 8; ++i) x = sqrt(x + alarms);
    ++alarms;
}
static void alarms_and_vectors(void)
{
    signal(SIGALRM, on_alarm);
    ualarm(1000, 1000);
    double sum = 0;
    for (int round = 0; alarms < 200 || round < 50; ++round) {
        double v[64];
        for (int i = 0; i < 64; ++i) v[i] = i * 0.5;
        for (int k = 0; k < 2000; ++k) {
            for (int i = 0; i < 64; ++i) v[i] = v[i] * 0.999 + k;
        }
        sum = 0;
        for (int i = 0; i < 64; ++i) sum += v[i];
    }
    ualarm(0, 0);
    printf("vectors %a\n", sum);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    code_made_at_run_time();
    faults();
    lazy_pages();
    threads();
    forks();
    rounding();
    alarms_and_vectors();
    return 0;
}
