#include "vm/signals.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace doppel::vm {

namespace {

sigset_t watched(bool usr2)
{
    sigset_t set;
    ::sigemptyset(&set);
    if (usr2) ::sigaddset(&set, SIGUSR2);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, signal);
    return set;
}

}  // namespace

base::Result<std::unique_ptr<SignalWatch>> SignalWatch::create(
    base::EventLoop& loop, std::function<void(int signal)> on_signal,
    std::function<void()> on_usr2)
{
    std::unique_ptr<SignalWatch> watch{new SignalWatch{loop}};
    watch->on_signal_ = std::move(on_signal);
    watch->on_usr2_ = std::move(on_usr2);
    const sigset_t set = watched(watch->on_usr2_ != nullptr);
    ::pthread_sigmask(SIG_BLOCK, &set, &watch->old_mask_);
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &watch->old_pipe_);
    watch->fd_ = base::Fd{::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)};
    if (!watch->fd_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot watch signals", errno);
    }
    TRY(loop.add(watch->fd_.get(), EPOLLIN, [raw = watch.get()](std::uint32_t) {
        raw->on_readable();
    }));
    return watch;
}

SignalWatch::~SignalWatch()
{
    if (fd_.valid()) loop_.remove(fd_.get());
    ::sigaction(SIGPIPE, &old_pipe_, nullptr);
    ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

void SignalWatch::on_readable()
{
    signalfd_siginfo info{};
    if (::read(fd_.get(), &info, sizeof info) != sizeof info) return;
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGUSR2) {
        on_usr2_();
        return;
    }
    if (!seen_) {
        seen_ = true;
        on_signal_(signal);
        return;
    }
    ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
    ::raise(signal);
}

}  // namespace doppel::vm
