// Host signals of the worker's thread. What hits translated code is recorded in the context and
// leads to the common exit, as if the code had left by itself: all work is done outside the
// handler, which therefore needs nothing: no thread-local storage (FS.base is the guest's), no
// stack protector, no library.
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <bit>
#include <cerrno>

#include "engine/translate/dispatch/supervisor.h"

namespace doppel::engine::translate {

namespace {

constexpr greg_t trap_flag = 0x100;
constexpr int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
struct sigaction previous[64];

bool within(std::uint64_t rip, const void* begin, const void* end)
{
    return rip >= std::bit_cast<std::uint64_t>(begin) && rip < std::bit_cast<std::uint64_t>(end);
}

bool in_code(std::uint64_t rip) { return rip - supervisor_code < supervisor_code_size; }

__attribute__((no_stack_protector)) void leave_guest(greg_t* registers, std::uint32_t exit)
{
    ExecContext& context = supervisor();
    context.interrupted_exit = context.exit;
    context.exit = exit;
    context.host_rip = static_cast<std::uint64_t>(registers[REG_RIP]);
    registers[REG_EFL] &= ~trap_flag;
    registers[REG_RIP] = static_cast<greg_t>(supervisor_exit_address());
}

__attribute__((no_stack_protector)) void on_fault(int signal, siginfo_t* info, void* frame)
{
    auto* registers = static_cast<ucontext_t*>(frame)->uc_mcontext.gregs;
    const auto rip = static_cast<std::uint64_t>(registers[REG_RIP]);
    if (in_code(rip)) {
        ExecContext& context = supervisor();
        context.trap = static_cast<std::uint64_t>(registers[REG_TRAPNO]);
        context.error = static_cast<std::uint64_t>(registers[REG_ERR]);
        context.address = static_cast<std::uint64_t>(registers[REG_CR2]);
        leave_guest(registers, exit_fault);
        return;
    }
    if (signal == SIGTRAP && (within(rip, doppel_supervisor_exit, doppel_exit_end) ||
                              within(rip, std::bit_cast<const void*>(&doppel_enter_supervisor),
                                     doppel_entry_end))) {
        registers[REG_EFL] &= ~trap_flag;  // stepped out of the code: it left by itself
        return;
    }
    const struct sigaction& old = previous[signal];
    if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr) {
        old.sa_sigaction(signal, info, frame);
        return;
    }
    struct sigaction fatal {};
    fatal.sa_handler = SIG_DFL;
    ::sigaction(signal, &fatal, nullptr);
}

}  // namespace

void interrupt_supervisor(ucontext_t& interrupted) noexcept
{
    auto* registers = interrupted.uc_mcontext.gregs;
    const auto rip = static_cast<std::uint64_t>(registers[REG_RIP]);
    supervisor().kicked = 1;
    if (in_code(rip)) {
        leave_guest(registers, exit_kick);
    } else if (within(rip, doppel_entry_ready, doppel_entry_end)) {
        // Decided to enter, not there yet.
        registers[REG_RIP] =
            static_cast<greg_t>(std::bit_cast<std::uint64_t>(&doppel_supervisor_cancel));
        registers[REG_EFL] &= ~trap_flag;
    }
}

base::Result<void> prepare_supervisor()
{
    ExecContext& context = supervisor();
    std::uint64_t engine_fs = 0;
    asm volatile("rdfsbase %0" : "=r"(engine_fs));
    context.engine_fs = engine_fs;
    context.fs_base = engine_fs;
    context.gs_base = fold;
    asm volatile("wrgsbase %0" : : "r"(fold));

    struct sigaction action {};
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    action.sa_sigaction = on_fault;
    for (const int signal : faults) {
        if (::sigaction(signal, &action, &previous[signal]) != 0) {
            return base::errno_error(base::ErrorKind::host, "Cannot install a signal handler", errno);
        }
    }
    return {};
}

}  // namespace doppel::engine::translate
