// Signals: record what happened and leave guest code. All work is done by the worker.
#include <ucontext.h>

#include <csignal>

#include "engine/translate/user/parts.h"
#include "engine/translate/user/program.h"
#include "engine/translate/user/system_call.h"

namespace doppel::engine::translate::program {
namespace {

constexpr std::uint64_t tf = 0x100;
constexpr std::uint64_t debug_exception = 1, page_fault = 14;

// The kernel's own; the C library's differ.
struct KernelAction {
    void (*handler)(int, siginfo_t*, void*);
    std::uint64_t flags;
    void (*restorer)();
    std::uint64_t mask;
};
constexpr std::uint64_t sa_restorer = 0x04000000;
// The stack is free again while a handler runs, and always used from its top, even if a guest's
// stack pointer points into it.
constexpr int ss_autodisarm = static_cast<int>(1u << 31);

bool in_guest_code(std::uint64_t rip)
{
    return rip >= user_code && rip < user_code + user_code_size;
}

bool in_entry(std::uint64_t rip)
{
    return rip >= address_of(&enter_guest) && rip < address_of(&entry_end);
}

void kick(gregset_t& gregs)
{
    const auto rip = static_cast<std::uint64_t>(gregs[REG_RIP]);
    if (command().kicked != command().turn) return;  // late: that turn is over
    if (in_guest_code(rip)) {
        context().interrupted_exit = context().exit;
        context().exit = exit_kick;
        context().host_rip = rip;
        gregs[REG_EFL] &= ~static_cast<greg_t>(tf);
        gregs[REG_RIP] = static_cast<greg_t>(user_common_exit);
    } else if (in_entry(rip)) {
        gregs[REG_EFL] &= ~static_cast<greg_t>(tf);
        gregs[REG_RIP] = static_cast<greg_t>(address_of(&cancel_entry));
    }
    // Elsewhere: on the way in, which looks at command().kicked, or already out.
}

void fault(gregset_t& gregs)
{
    const auto rip = static_cast<std::uint64_t>(gregs[REG_RIP]);
    const auto trap = static_cast<std::uint64_t>(gregs[REG_TRAPNO]);
    if (!in_guest_code(rip)) {
        if (trap != debug_exception) crash(trap);
        gregs[REG_EFL] &= ~static_cast<greg_t>(tf);  // a single step went to the common exit
        return;
    }
    context().interrupted_exit = context().exit;
    context().exit = exit_fault;
    context().host_rip = rip;
    context().trap = trap;
    context().error = static_cast<std::uint64_t>(gregs[REG_ERR]);
    context().address = trap == page_fault ? static_cast<std::uint64_t>(gregs[REG_CR2]) : 0;
    gregs[REG_EFL] &= ~static_cast<greg_t>(tf);
    gregs[REG_RIP] = static_cast<greg_t>(user_common_exit);
}

void handle(int signal, siginfo_t*, void* frame)
{
    gregset_t& gregs = static_cast<ucontext_t*>(frame)->uc_mcontext.gregs;
    if (signal == user_kick_signal) {
        kick(gregs);
    } else {
        fault(gregs);
    }
}

}  // namespace

void install_handlers()
{
    stack_t stack{};
    stack.ss_sp = signal_stack;
    stack.ss_size = PROGRAM_SIGNAL_STACK_SIZE;
    stack.ss_flags = ss_autodisarm;
    if (system_call(__NR_sigaltstack, address_of(&stack), 0) != 0) leave(2);

    const KernelAction action{&handle, SA_SIGINFO | SA_ONSTACK | sa_restorer, &signal_return,
                              ~0ull};
    constexpr int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, user_kick_signal};
    for (const int signal : signals) {
        if (system_call(__NR_rt_sigaction, static_cast<std::uint64_t>(signal), address_of(&action),
                        0, 8) != 0) {
            leave(2);
        }
    }
}

}  // namespace doppel::engine::translate::program
