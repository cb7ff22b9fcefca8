#include "devices/virtio/transport/io_thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <future>

#include "base/loop_timer.h"

namespace doppel::devices::virtio {

namespace {

// What this thread does lasts microseconds, and others wait for it: with a short slice it may
// take a processor at once from who uses a whole one (Linux 6.12 and later; no right needed).
// Earlier kernels do not look at it.
void ask_for_short_slices()
{
    // struct sched_attr, whose header cannot be included beside <sched.h>.
    struct {
        std::uint32_t size, policy;
        std::uint64_t flags;
        std::int32_t nice;
        std::uint32_t priority;
        std::uint64_t runtime, deadline, period;
    } attributes{};
    static_assert(sizeof attributes == 48);  // SCHED_ATTR_SIZE_VER0
    attributes.size = sizeof attributes;
    attributes.policy = SCHED_OTHER;
    attributes.nice = ::getpriority(PRIO_PROCESS, 0);  // as it is
    attributes.runtime = 100'000;                      // ns, the least
    static_cast<void>(::syscall(SYS_sched_setattr, 0, &attributes, 0));
}

}  // namespace

base::Result<std::unique_ptr<IoThread>> IoThread::create(std::string name)
{
    std::unique_ptr<IoThread> thread{new IoThread};
    thread->name_ = std::move(name);
    thread->loop_ = TRY(base::EventLoop::create());
    return thread;
}

void IoThread::start()
{
    if (thread_.joinable()) return;
    // Signals are for the thread that watches them.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread{[this] {
        ask_for_short_slices();
        loop_->run();
    }};
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_setname_np(thread_.native_handle(), name_.substr(0, 15).c_str());
}

void IoThread::stop()
{
    if (!thread_.joinable()) return;
    loop_->stop();
    thread_.join();
}

void IoThread::stay_off(std::uint32_t processor) noexcept
{
    if (processor == processors_.chosen()) return;
    const std::uint64_t now = base::monotonic_ns();
    if (now - moved_ns_ < least_stay_ns) return;
    moved_ns_ = now;
    processors_.stay_off(processor);
}

void IoThread::call(const std::function<void()>& task)
{
    if (!thread_.joinable()) return task();
    std::promise<void> done;
    loop_->post([&] {
        task();
        done.set_value();
    });
    done.get_future().wait();
}

}  // namespace doppel::devices::virtio
