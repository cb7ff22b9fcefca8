#include "backends/character/terminal_guard.h"

#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace doppel::backends {
namespace {

// Signals whose default action ends the process.
constexpr std::array<int, 12> fatal = {SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGSEGV, SIGBUS,
                                       SIGFPE,  SIGILL,  SIGABRT, SIGSYS, SIGXCPU, SIGXFSZ};

// Read by a signal handler: plain data, written before `active` is set.
termios saved_mode;
int terminal_fd = -1;
std::atomic<bool> active = false;
std::array<struct sigaction, fatal.size()> previous;

// Async-signal-safe.
void restore()
{
    if (!active.exchange(false)) return;
    // A background process that sets terminal modes is stopped unless SIGTTOU is blocked.
    sigset_t block;
    sigset_t before;
    ::sigemptyset(&block);
    ::sigaddset(&block, SIGTTOU);
    ::pthread_sigmask(SIG_BLOCK, &block, &before);
    ::tcsetattr(terminal_fd, TCSANOW, &saved_mode);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool ends_process(const struct sigaction& action)
{
    return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_DFL;
}

// A handler that was there before goes first: it may turn the signal into something the
// process survives (the interpreter's native thunks do), and then the terminal stays raw.
// When it has set the default action instead, the process is about to end.
void on_fatal(int signal, siginfo_t* info, void* context)
{
    const int saved_errno = errno;
    std::size_t index = 0;
    while (index + 1 < fatal.size() && fatal[index] != signal) ++index;
    const struct sigaction& old = previous[index];
    if (!ends_process(old)) {
        if ((old.sa_flags & SA_SIGINFO) != 0) {
            old.sa_sigaction(signal, info, context);
        } else if (old.sa_handler != SIG_IGN) {
            old.sa_handler(signal);
        }
        struct sigaction now {};
        if (::sigaction(signal, nullptr, &now) == 0 && ends_process(now)) restore();
        errno = saved_errno;
        return;
    }
    restore();
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    ::sigaction(signal, &action, nullptr);
    // A fault of the CPU's comes again by itself, with its true context for a core dump.
    const bool by_fault = (signal == SIGSEGV || signal == SIGBUS || signal == SIGFPE ||
                           signal == SIGILL) && info->si_code > 0;
    if (!by_fault) ::raise(signal);
    errno = saved_errno;
}

void install_handlers()
{
    for (std::size_t i = 0; i < fatal.size(); ++i) {
        struct sigaction action {};
        if (::sigaction(fatal[i], nullptr, &previous[i]) != 0) continue;
        if ((previous[i].sa_flags & SA_SIGINFO) == 0 && previous[i].sa_handler == SIG_IGN) continue;
        action.sa_sigaction = on_fatal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        ::sigaction(fatal[i], &action, nullptr);
    }
}

void remove_handlers()
{
    for (std::size_t i = 0; i < fatal.size(); ++i) {
        struct sigaction now {};
        // Somebody who came later may chain to ours: leave it to them.
        if (::sigaction(fatal[i], nullptr, &now) != 0 || (now.sa_flags & SA_SIGINFO) == 0 ||
            now.sa_sigaction != on_fatal) {
            continue;
        }
        ::sigaction(fatal[i], &previous[i], nullptr);
    }
}

}  // namespace

std::unique_ptr<TerminalGuard> TerminalGuard::make_raw(int fd)
{
    if (active || ::isatty(fd) == 0) return nullptr;
    // -1: not our controlling terminal, so that job control does not concern us.
    const pid_t foreground = ::tcgetpgrp(fd);
    if (foreground >= 0 && foreground != ::getpgrp()) return nullptr;
    termios mode{};
    if (::tcgetattr(fd, &mode) != 0) return nullptr;
    saved_mode = mode;
    terminal_fd = fd;
    active = true;
    static const int registered = std::atexit(restore);
    static_cast<void>(registered);
    install_handlers();
    ::cfmakeraw(&mode);
    ::tcsetattr(fd, TCSANOW, &mode);
    return std::unique_ptr<TerminalGuard>{new TerminalGuard};
}

TerminalGuard::~TerminalGuard()
{
    restore();
    remove_handlers();
}

}  // namespace doppel::backends
