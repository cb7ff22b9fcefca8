#include "devices/virtio/transport/io_thread.h"

#include <pthread.h>
#include <signal.h>

#include <future>

namespace doppel::devices::virtio {

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
    thread_ = std::thread{[this] { loop_->run(); }};
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_setname_np(thread_.native_handle(), name_.substr(0, 15).c_str());
}

void IoThread::stop()
{
    if (!thread_.joinable()) return;
    loop_->stop();
    thread_.join();
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
