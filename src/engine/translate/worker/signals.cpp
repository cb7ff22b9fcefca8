#include "engine/translate/worker/signals.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/mapped_region.h"
#include "engine/translate/link/arena.h"
#include "engine/translate/worker/worker_clock.h"

namespace doppel::engine::translate {

namespace {

Mailbox* crash_mailbox = nullptr;
WakeHandler wake_handler = nullptr;
void* wake_argument = nullptr;

// A line of text without anything that a signal handler may not use.
class Line {
public:
    Line(char* to, std::size_t capacity) : at_(to), end_(to + capacity - 1) {}
    ~Line() { *at_ = '\0'; }
    Line(const Line&) = delete;
    Line& operator=(const Line&) = delete;
    Line& text(const char* text)
    {
        while (*text != '\0' && at_ != end_) *at_++ = *text++;
        return *this;
    }
    Line& hex(std::uint64_t value)
    {
        text("0x");
        for (int shift = 60; shift >= 0; shift -= 4) {
            if (shift != 0 && value >> shift == 0) continue;
            if (at_ != end_) *at_++ = "0123456789abcdef"[value >> shift & 15];
        }
        return *this;
    }

private:
    char* at_;
    char* end_;
};

const char* name_of(int signal)
{
    switch (signal) {
    case SIGSEGV: return "SIGSEGV";
    case SIGBUS: return "SIGBUS";
    case SIGFPE: return "SIGFPE";
    case SIGILL: return "SIGILL";
    case SIGTRAP: return "SIGTRAP";
    default: return "SIGABRT";
    }
}

void on_crash(int signal, siginfo_t* info, void* context)
{
    const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    {
        Line line{crash_mailbox->crash, sizeof crash_mailbox->crash};
        line.text(name_of(signal)).text(" at ").hex(static_cast<std::uint64_t>(registers[REG_RIP]));
        if (signal != SIGABRT) {
            line.text(", address ").hex(reinterpret_cast<std::uint64_t>(info->si_addr));
        }
    }
    // The default action, once more, at the same place.
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    ::sigaction(signal, &action, nullptr);
    ::raise(signal);
}

void on_wake(int signal, siginfo_t* info, void* context)
{
    if (signal == timer_signal()) WorkerClock::expired(*info);
    wake_handler(wake_argument, *static_cast<ucontext_t*>(context),
                 signal == summons_signal() ? Wake::summons : Wake::outside);
}

base::Result<void> install(int signal, void (*handler)(int, siginfo_t*, void*), int flags)
{
    struct sigaction action {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | flags;
    // One at a time: a handler that finds another's half-done work has nothing to go on.
    ::sigfillset(&action.sa_mask);
    if (::sigaction(signal, &action, nullptr) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot install a signal handler", errno);
    }
    return {};
}

}  // namespace

base::Result<void> use_signal_stack()
{
    constexpr std::size_t own_needs = 64u << 10;
    const auto frame = static_cast<std::size_t>(std::max(::sysconf(_SC_MINSIGSTKSZ), 4096l));
    const std::size_t size = own_needs + frame / 4096 * 4096;
    // Stays until the process ends.
    static base::MappedRegion region;
    region = TRY(base::MappedRegion::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    stack_t stack{};
    stack.ss_sp = region.data();
    stack.ss_size = region.size();
    if (::sigaltstack(&stack, nullptr) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot set a signal stack", errno);
    }
    return {};
}

base::Result<void> report_crashes(Mailbox& mailbox)
{
    crash_mailbox = &mailbox;
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
        TRY(install(signal, on_crash, 0));
    }
    return {};
}

base::Result<void> handle_wakes(WakeHandler handler, void* argument)
{
    wake_handler = handler;
    wake_argument = argument;
    TRY(install(kick_signal(), on_wake, SA_RESTART));
    TRY(install(summons_signal(), on_wake, SA_RESTART));
    return install(timer_signal(), on_wake, SA_RESTART);
}

}  // namespace doppel::engine::translate
