// The zygote: an address space with nothing in it, forked once for every guest address space.
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <csignal>

#include "engine/translate/user/parts.h"
#include "engine/translate/user/system_call.h"

namespace doppel::engine::translate::program {
namespace {

// The zygote has its control page where a process has its command.
ZygoteControl& control() { return *reinterpret_cast<ZygoteControl*>(user_command); }

void wake(std::uint32_t* word)
{
    system_call(__NR_futex, address_of(word), FUTEX_WAKE, 0x7fffffff);
}

void wait_while(std::uint32_t* word, std::uint32_t value)
{
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) {
        system_call(__NR_futex, address_of(word), FUTEX_WAIT, value);
    }
}

// The initial stack, the vDSO and what else the kernel mapped lie where guest addresses go.
void clear_address_space()
{
    system_call(__NR_munmap, 0, user_image);
    system_call(__NR_munmap, user_engine_end, user_window_end - user_engine_end);
}

// All but those that a process needs.
void close_descriptors()
{
    system_call(__NR_close_range, 0, 2, 0);
    for (unsigned i = 0; i < memory_files_max; ++i) {
        if (control().files.offsets[i] != ~0ull) continue;
        system_call(__NR_close, user_file_fd + i);
    }
    if (system_call(__NR_close_range, user_arena_fd + 1, ~0u, 0) == 0) return;
    // Before Linux 5.9.
    for (std::uint64_t fd = 0; fd < 1024; ++fd) {
        if (fd < user_ram_fd || fd > user_arena_fd) system_call(__NR_close, fd);
    }
}

// Signals as after a plain start, but children go without being waited for.
void reset_signals()
{
    const std::uint64_t none = 0;
    system_call(__NR_rt_sigprocmask, SIG_SETMASK, address_of(&none), 0, sizeof none);
    const struct {
        std::uint64_t handler, flags, restorer, mask;
    } ignore{1, 0, 0, 0};
    system_call(__NR_rt_sigaction, SIGCHLD, address_of(&ignore), 0, 8);
}

void serve_forks(std::int32_t self)
{
    std::uint32_t turn = 0;
    for (;;) {
        wait_while(&control().turn, turn);
        turn = __atomic_load_n(&control().turn, __ATOMIC_ACQUIRE);
        const std::uint32_t slot = control().slot;
        const long pid = slot < user_slots ? system_call(__NR_clone, SIGCHLD) : -22;
        if (pid == 0) run_process(slot, self);
        control().pid = static_cast<std::int32_t>(pid);
        __atomic_store_n(&control().done, turn, __ATOMIC_RELEASE);
        wake(&control().done);
    }
}

}  // namespace

void zygote()
{
    clear_address_space();
    system_call(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
    const long mapped = system_call(__NR_mmap, user_command, 4096, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_FIXED, user_arena_fd, 0);
    if (mapped != static_cast<long>(user_command)) leave(5);
    if (system_call(__NR_getppid) != control().parent) leave(0);
    close_descriptors();
    reset_signals();
    const auto self = static_cast<std::int32_t>(system_call(__NR_getpid));
    serve_forks(self);
    leave(0);
}

}  // namespace doppel::engine::translate::program
