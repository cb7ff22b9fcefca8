// Threads for what blocks. Started when there is work and nobody idle, up to a bound.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace doppel::backends {

class WorkerPool {
public:
    explicit WorkerPool(std::size_t most_threads) : most_threads_(most_threads) {}
    WorkerPool(const WorkerPool&) = delete;
    WorkerPool& operator=(const WorkerPool&) = delete;
    ~WorkerPool() { stop(); }

    // False when no thread could be started and none is there: the caller keeps its work.
    [[nodiscard]] bool run(std::function<void()> task);
    // Does what is queued, then ends the threads.
    void stop();

private:
    void work();

    std::size_t most_threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> tasks_;
    std::vector<std::thread> threads_;
    std::size_t idle_ = 0;
    bool stopping_ = false;
};

}  // namespace doppel::backends
