#include "engine/interpret/thunk/host_fault.h"

#include <signal.h>
#include <ucontext.h>

#include <array>

namespace doppel::engine::interpret::thunk {

// initial-exec: the signal handler must not enter the dynamic linker's TLS allocator.
constinit __attribute__((tls_model("initial-exec"))) thread_local const CodeRange* current_thunk = nullptr;

namespace {

constexpr std::array<int, 4> handled = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
std::array<struct sigaction, handled.size()> previous;

HostFault kind_of(int signal, greg_t trap)
{
    constexpr greg_t x87_trap = 16;
    if (signal == SIGFPE) return trap == x87_trap ? HostFault::x87 : HostFault::simd;
    if (signal == SIGILL) return HostFault::illegal;
    return HostFault::protection;
}

void chain(int signal, siginfo_t* info, void* context)
{
    std::size_t index = 0;
    while (index + 1 < handled.size() && handled[index] != signal) ++index;
    const struct sigaction& old = previous[index];
    if ((old.sa_flags & SA_SIGINFO) != 0) {
        old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
        // A synchronous fault: returning raises it again, now with the default action.
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        ::sigaction(signal, &action, nullptr);
        if (info->si_code <= 0) ::raise(signal);  // sent by a process: it does not come back
    } else {
        old.sa_handler(signal);
    }
}

void on_signal(int signal, siginfo_t* info, void* context)
{
    const CodeRange* thunk = current_thunk;
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto rip = static_cast<std::uint64_t>(registers[REG_RIP]);
    // SAFETY: addresses are compared, not followed; current_thunk is set by this thread
    // and points to a descriptor that lives at least until it is reset.
    if (thunk != nullptr && info->si_code > 0 &&
        rip >= reinterpret_cast<std::uint64_t>(thunk->begin) &&
        rip < reinterpret_cast<std::uint64_t>(thunk->fault_exit)) {
        registers[REG_RIP] = reinterpret_cast<greg_t>(thunk->fault_exit);
        registers[REG_RAX] = static_cast<greg_t>(kind_of(signal, registers[REG_TRAPNO]));
        return;
    }
    chain(signal, info, context);
}

bool install()
{
    for (std::size_t i = 0; i < handled.size(); ++i) {
        struct sigaction action {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        if (::sigaction(handled[i], &action, &previous[i]) != 0) return false;
    }
    return true;
}

}  // namespace

bool install_host_fault_handler()
{
    static const bool installed = install();
    return installed;
}

}  // namespace doppel::engine::interpret::thunk
