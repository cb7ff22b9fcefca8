#include "backends/block/worker_pool.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace doppel::backends {

bool WorkerPool::run(std::function<void()> task)
{
    const std::lock_guard lock{mutex_};
    tasks_.push_back(std::move(task));
    if (idle_ < tasks_.size() && threads_.size() < most_threads_) {
        // Signals are for the event loop's thread and the vCPUs.
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            threads_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            if (threads_.empty()) tasks_.pop_back();
        }
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        if (threads_.empty()) return false;
    }
    wake_.notify_one();
    return true;
}

void WorkerPool::stop()
{
    {
        const std::lock_guard lock{mutex_};
        stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
}

void WorkerPool::work()
{
    std::unique_lock lock{mutex_};
    while (true) {
        ++idle_;
        wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
        --idle_;
        if (tasks_.empty()) return;
        auto task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.unlock();
        task();
        lock.lock();
    }
}

}  // namespace doppel::backends
