// The worker: the sandboxed process that runs the guest's instructions. Started by the VMM
// (engine/translate/vmm) with the descriptors and the arena that link/arena.h describes.
//
//   main thread: sets up, gives up its stack, then waits for the VMM's end
//   vCPU thread: creates the vCPU, enters the sandbox, serves requests
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <csignal>
#include <new>
#include <vector>

#include "engine/translate/layout.h"
#include "engine/translate/link/arena.h"
#include "engine/translate/worker/address_space.h"
#include "engine/translate/worker/cpu_interface.h"
#include "engine/translate/worker/sandbox.h"
#include "engine/translate/worker/signals.h"

namespace doppel::engine::translate {

namespace {

constexpr std::uint64_t spin_ns = 50'000;
constexpr std::size_t stack_size = 1u << 20;

// A status that says that there is no mailbox to say more in.
constexpr int no_arena = 70;

struct Arena {
    base::MappedRegion region;
    Mailbox* mailbox = nullptr;
    Setup* setup = nullptr;
};

struct CommonsFile {
    base::MappedRegion region;
    Commons* commons = nullptr;
    Siblings::Maps maps;
};

base::Result<base::MappedRegion> map_shared(int fd, std::uint64_t least)
{
    struct stat status {};
    if (::fstat(fd, &status) != 0 || static_cast<std::uint64_t>(status.st_size) < least) {
        return base::host_error("A memory file that the VMM gives is not there");
    }
    return base::MappedRegion::map(static_cast<std::size_t>(status.st_size), PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_NORESERVE, fd);
}

base::Result<CommonsFile> map_commons()
{
    CommonsFile file;
    file.region = TRY(map_shared(commons_fd, commons_code_map));
    std::byte* const base = file.region.data();
    // SAFETY: the VMM made these objects there before it started us.
    file.commons = std::launder(reinterpret_cast<Commons*>(base));
    const std::uint64_t map_size = (file.region.size() - commons_code_map) / 2;
    file.maps.code = reinterpret_cast<std::atomic<std::uint64_t>*>(base + commons_code_map);
    file.maps.lost = reinterpret_cast<std::atomic<std::uint64_t>*>(base + commons_code_map + map_size);
    file.maps.pages = map_size / sizeof(std::uint64_t);
    return file;
}

base::Result<Arena> map_arena()
{
    Arena arena;
    arena.region = TRY(map_shared(arena_fd, arena_size));
    std::byte* const base = arena.region.data();
    // SAFETY: the VMM made these objects there before it started us; the arena is page-aligned
    // and large enough for both.
    arena.mailbox = std::launder(reinterpret_cast<Mailbox*>(base + arena_offset::mailbox));
    arena.setup = std::launder(reinterpret_cast<Setup*>(base + arena_offset::setup));
    if (arena.setup->version != setup_version) return base::host_error("An arena of another version");
    return arena;
}

base::Result<std::unique_ptr<memory::GuestMemory>> attach_memory(const Arena& arena,
                                                                 const CommonsFile& commons)
{
    const Setup& setup = *arena.setup;
    std::vector<memory::MemoryFile> files;
    for (unsigned i = 0; i < setup.file_count; ++i) {
        files.push_back({base::Fd{file_fd + static_cast<int>(i)}, setup.files[i].size,
                         setup.files[i].read_only != 0});
    }
    auto memory = TRY(memory::GuestMemory::attach(base::Fd{ram_fd}, setup.ram_size,
                                                  std::bit_cast<void*>(worker_ram),
                                                  std::move(files)));
    for (unsigned i = 0; i < setup.slot_count; ++i) {
        const SetupSlot& slot = setup.slots[i];
        TRY(memory->add_slot(base::Gpa{slot.start}, slot.size, slot.offset, slot.read_only != 0));
    }
    if (memory->end() / base::page_size > commons.maps.pages) {
        return base::host_error("Commons that are too small");
    }
    memory->share_code_map(commons.maps.code, std::uint64_t{1} << setup.vcpu_index % vcpus_max);
    return memory;
}

std::atomic<std::uint32_t> stack_gone;  // the main thread's

// Everything that the vCPU thread keeps.
struct Worker {
    Arena arena;
    CommonsFile commons;
    Siblings siblings;
    std::unique_ptr<memory::GuestMemory> memory;
    std::unique_ptr<x86::CpuidPolicy> cpuid;
    std::unique_ptr<WorkerClock> clock;
    std::unique_ptr<VmmLink> link;
    std::unique_ptr<CpuInterface> cpu;

    base::Result<void> set_up()
    {
        TRY(use_signal_stack());
        TRY(report_crashes(*arena.mailbox));
        TRY(check_own_address_space());
        // Timers and sleeps are the guest's: not 50 us late.
        ::prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
        const Setup& setup = *arena.setup;
        commons = TRY(map_commons());
        memory = TRY(attach_memory(arena, commons));
        commons.maps.pages = memory->end() / base::page_size;
        siblings = TRY(Siblings::create(*commons.commons, commons.maps, setup.vcpu_index));
        cpuid = std::make_unique<x86::CpuidPolicy>(x86::CpuidPolicy::from_entries(
            {setup.cpuid, setup.cpuid + std::min(setup.cpuid_count, cpuid_entries_max)}));
        clock = std::make_unique<WorkerClock>(*arena.mailbox, setup.tsc_hz);
        cpu = TRY(create_cpu({*memory, *clock, *cpuid, *arena.mailbox, *link,
                              commons.commons->doorbells, siblings, setup.vcpu_index, setup.lock_step}));
        arena.setup->worker_thread.store(static_cast<std::uint32_t>(::gettid()));
        TRY(check_own_address_space());
        return enter_sandbox();
    }

    [[noreturn]] void serve()
    {
        // The first request is Request::none: to say how setting up went.
        static_cast<void>(link->next());
        while (stack_gone.load(std::memory_order_acquire) == 0) ::sched_yield();
        if (const auto ready = set_up(); !ready) {
            link->answer(Reply::error, ready.error().text());
            ::_exit(1);
        }
        link->answer(Reply::done);
        for (;;) {
            const Request request = link->next();
            if (request == Request::exit) ::_exit(0);
            cpu->handle(request);
        }
    }
};

// The VMM raised it to have the kernel place libraries and mappings low enough; that is not for
// the processes that are started from here.
void restore_stack_limit()
{
    rlimit limit{};
    if (::getrlimit(RLIMIT_STACK, &limit) != 0) return;
    limit.rlim_cur = std::min<rlim_t>(stack_size, limit.rlim_max);
    ::setrlimit(RLIMIT_STACK, &limit);
}

// The main thread's stack lies where the guest's addresses below 2 MiB fold to: supervisor code
// that follows a null pointer must fault there. So the thread waits without one.
[[noreturn]] void wait_for_the_end()
{
    static char program_name[] = "doppel-worker";
    static char byte;
    // They lead to that stack.
    ::environ = nullptr;
    ::program_invocation_name = ::program_invocation_short_name = program_name;
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
    constexpr std::uint64_t stacks_end = 0x7ffffffff000;
    asm volatile(
        "syscall\n"                   // munmap
        "movl %%eax, %%ebx\n"
        "movl $1, %[gone]\n"
        "testl %%ebx, %%ebx\n"
        "jnz 2f\n"
        "1: movl %[read], %%eax\n"
        "movl %[lifeline], %%edi\n"
        "leaq %[byte], %%rsi\n"
        "movl $1, %%edx\n"
        "syscall\n"
        "cmpl %[interrupted], %%eax\n"
        "je 1b\n"
        "2: movl %[exit], %%eax\n"
        "xorl %%edi, %%edi\n"
        "syscall\n"
        "ud2"
        : [gone] "=m"(stack_gone), [byte] "=m"(byte)
        : "a"(SYS_munmap), "D"(window_end), "S"(stacks_end - window_end), [read] "i"(SYS_read),
          [lifeline] "i"(lifeline_fd), [interrupted] "i"(-EINTR), [exit] "i"(SYS_exit_group)
        : "rbx", "rcx", "rdx", "r11", "memory");
    __builtin_unreachable();
}

int run()
{
    // No other arenas of malloc than the heap behind our image.
    ::mallopt(M_ARENA_MAX, 1);
    ::prctl(PR_SET_NAME, "doppel-worker", 0, 0, 0);
    restore_stack_limit();
    auto arena = map_arena();
    if (!arena) return no_arena;
    auto* worker = new Worker;
    worker->arena = std::move(*arena);
    worker->link = std::make_unique<VmmLink>(*worker->arena.mailbox, looks_in(spin_ns));

    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size);
    pthread_t thread{};
    const auto entry = [](void* argument) -> void* { static_cast<Worker*>(argument)->serve(); };
    if (::pthread_create(&thread, &attributes, entry, worker) != 0) return no_arena;
    wait_for_the_end();
}

}  // namespace

}  // namespace doppel::engine::translate

int main()
{
    return doppel::engine::translate::run();
}
