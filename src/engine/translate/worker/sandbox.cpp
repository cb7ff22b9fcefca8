#include "engine/translate/worker/sandbox.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <vector>

#include "engine/translate/link/arena.h"

namespace doppel::engine::translate {

namespace {

// System calls that are allowed whatever their arguments.
constexpr int allowed[] = {
    SYS_futex, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_clock_gettime, SYS_timer_settime,
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk,
    SYS_rt_sigaction, SYS_sigaltstack, SYS_restart_syscall, SYS_timer_create, SYS_timer_delete,
    SYS_clock_nanosleep, SYS_sched_yield, SYS_gettid, SYS_getpid, SYS_getcpu, SYS_exit, SYS_exit_group,
    // User processes: to wait for one, to kick it, to notice its end.
    SYS_futex_waitv, SYS_pidfd_send_signal, SYS_poll, SYS_close, SYS_wait4,
};

// System calls that are allowed with some values of their first argument only.
struct Restricted {
    int number;
    std::uint32_t first, last;
};

constexpr std::uint32_t x32_bit = 0x40000000;

sock_filter statement(int code, std::uint32_t value)
{
    return {static_cast<std::uint16_t>(code), 0, 0, value};
}

sock_filter jump(int code, std::uint32_t value, std::uint8_t if_true, std::uint8_t if_false)
{
    return {static_cast<std::uint16_t>(code), if_true, if_false, value};
}

std::vector<sock_filter> build_filter()
{
    const auto pid = static_cast<std::uint32_t>(::getpid());
    const Restricted restricted[] = {
        {SYS_write, STDERR_FILENO, STDERR_FILENO},
        {SYS_write, doorbell_fd, doorbell_fd + doorbell_count - 1},
        {SYS_read, lifeline_fd, lifeline_fd},
        {SYS_tgkill, pid, pid},
        {SYS_sched_getaffinity, 0, 0},
        {SYS_sched_setaffinity, 0, 0},
    };
    const sock_filter load_number = statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
    const sock_filter allow = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const sock_filter kill = statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);

    std::vector<sock_filter> filter;
    filter.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    filter.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    filter.push_back(kill);
    filter.push_back(load_number);
    filter.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, x32_bit, 0, 1));
    filter.push_back(kill);
    for (const int number : allowed) {
        filter.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1));
        filter.push_back(allow);
    }
    for (const Restricted& call : restricted) {
        // x86 is little-endian: the low half of the argument comes first.
        constexpr std::uint32_t argument = offsetof(seccomp_data, args);
        filter.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call.number), 0, 5));
        filter.push_back(statement(BPF_LD | BPF_W | BPF_ABS, argument));
        filter.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, call.first, 0, 2));
        filter.push_back(jump(BPF_JMP | BPF_JGT | BPF_K, call.last, 1, 0));
        filter.push_back(allow);
        // The next row may be of the same call.
        filter.push_back(load_number);
    }
    filter.push_back(kill);
    return filter;
}

}  // namespace

base::Result<void> enter_sandbox()
{
    std::vector<sock_filter> filter = build_filter();
    const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot give up privileges", errno);
    }
    // SPEC_ALLOW: older kernels otherwise turn off speculation for sandboxed processes, at a
    // quarter of the speed. Side channels are the guest kernel's own business here.
    const long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                  SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
    if (result != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot install a seccomp filter", errno);
    }
    return {};
}

}  // namespace doppel::engine::translate
