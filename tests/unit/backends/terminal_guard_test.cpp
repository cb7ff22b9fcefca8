#include "backends/character/terminal_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <ucontext.h>

#include <cstdlib>
#include <functional>

#include "console_fixture.h"

namespace doppel::backends {
namespace {

termios settings(int fd)
{
    termios mode{};
    EXPECT_EQ(::tcgetattr(fd, &mode), 0);
    return mode;
}

// Runs in a child with default signal actions, on a raw terminal; how the child ended.
int end_in_child(const Pty& pty, const std::function<void()>& end,
                 const std::function<void()>& before = {})
{
    const termios mode = settings(pty.slave.get());
    const pid_t child = ::fork();
    if (child == 0) {
        for (int number = 1; number < 32; ++number) ::signal(number, SIG_DFL);
        if (before) before();
        const auto guard = TerminalGuard::make_raw(pty.slave.get());
        if (!guard || (settings(pty.slave.get()).c_lflag & ICANON) != 0) ::_exit(99);
        end();
        ::_exit(98);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    const termios after = settings(pty.slave.get());
    EXPECT_EQ(after.c_lflag, mode.c_lflag);
    EXPECT_EQ(after.c_oflag, mode.c_oflag);
    EXPECT_EQ(after.c_iflag, mode.c_iflag);
    return status;
}

void write_to_nowhere()
{
    // SAFETY: mapped without access, so that the store faults.
    void* page = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *static_cast<volatile int*>(page) = 1;
}

TEST(TerminalGuard, NotATerminal)
{
    const Pipe pipe;
    EXPECT_EQ(TerminalGuard::make_raw(pipe.reader.get()), nullptr);
    EXPECT_EQ(TerminalGuard::make_raw(-1), nullptr);
}

TEST(TerminalGuard, RestoredBySignals)
{
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGSEGV, SIGBUS, SIGILL, SIGFPE,
                             SIGABRT}) {
        const Pty pty;
        const int status = end_in_child(pty, [number] { ::raise(number); });
        EXPECT_TRUE(WIFSIGNALED(status)) << number << " " << status;
        EXPECT_EQ(WTERMSIG(status), number);
    }
}

TEST(TerminalGuard, RestoredByExitAndAbort)
{
    const Pty pty;
    int status = end_in_child(pty, [] { std::exit(7); });
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 7);
    status = end_in_child(pty, [] { std::abort(); });
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(WTERMSIG(status), SIGABRT);
}

TEST(TerminalGuard, RestoredByAFault)
{
    const Pty pty;
    const int status = end_in_child(pty, write_to_nowhere);
    EXPECT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), SIGSEGV);
}

TEST(TerminalGuard, AnIgnoredSignalStaysIgnored)
{
    const Pty pty;
    const int status = end_in_child(
        pty,
        [] {
            ::raise(SIGHUP);
            std::exit(5);
        },
        [] { ::signal(SIGHUP, SIG_IGN); });
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 5);
}

// As the interpreter's native thunks do it: the fault at an address it knows is made good,
// for any other the default action is put back.
volatile std::size_t known_address;
volatile int repaired;

void repair(int number, siginfo_t* info, void*)
{
    // SAFETY: an address is compared and handed to the kernel, not followed.
    if (reinterpret_cast<std::size_t>(info->si_addr) == known_address) {
        ::mprotect(info->si_addr, 4096, PROT_READ | PROT_WRITE);
        repaired = repaired + 1;
        return;
    }
    ::signal(number, SIG_DFL);
}

void install_repair()
{
    struct sigaction action {};
    action.sa_sigaction = repair;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, nullptr);
}

TEST(TerminalGuard, AFaultThatAnotherHandlerRepairsLeavesTheTerminalRaw)
{
    const Pty pty;
    const auto repaired_then_fatal = [&pty] {
        void* page = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        known_address = reinterpret_cast<std::size_t>(page);
        *static_cast<volatile int*>(page) = 1;
        if (repaired != 1) ::_exit(97);
        if ((settings(pty.slave.get()).c_lflag & ICANON) != 0) ::_exit(96);
        write_to_nowhere();
    };
    const int status = end_in_child(pty, repaired_then_fatal, install_repair);
    EXPECT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
    EXPECT_EQ(WTERMSIG(status), SIGSEGV);
}

}  // namespace
}  // namespace doppel::backends
