// A raw file through io_uring: reads, writes and flushes go to the kernel in batches and come
// back through the event loop, without threads. What a ring does not do well (discards, zeroes,
// requests that O_DIRECT does not take as they are, the odd short transfer) goes to threads.
#pragma once

#include <liburing.h>

#include <deque>

#include "backends/block/block.h"
#include "backends/block/host_file.h"
#include "backends/block/raw_image.h"
#include "backends/block/worker_pool.h"

namespace doppel::backends {

class UringBackend final : public BlockBackend {
public:
    // Whether a file can be used this way at all: O_DIRECT with blocks above 512 bytes cannot,
    // since parts of blocks are then written by reading first, which threads keep apart.
    [[nodiscard]] static bool suits(const HostFile& file);
    // `image` is over a HostFile. An error where the host has no io_uring (then `image` is as it
    // was).
    static base::Result<std::unique_ptr<BlockBackend>> create(base::EventLoop& loop,
                                                              std::unique_ptr<RawImage>& image,
                                                              const BlockProperties& properties,
                                                              CacheMode cache);
    ~UringBackend() override;

private:
    static constexpr unsigned depth = 256;

    UringBackend(base::EventLoop& loop, const BlockProperties& properties, CacheMode cache)
        : BlockBackend(loop, properties), unsafe_(cache == CacheMode::unsafe)
    {
    }
    void start(std::span<Request> requests) noexcept override;
    void collect() noexcept override;

    [[nodiscard]] bool for_threads(const Request& request) const;
    void queue(Request&& request);
    void submit_queued();
    void completed(Request&& request, int result);
    void perform_on_thread(Request&& request);

    io_uring ring_{};
    bool ring_made_ = false;
    bool unsafe_;
    std::unique_ptr<RawImage> image_;
    HostFile* file_ = nullptr;  // below image_
    std::size_t active_ = 0;    // in the ring
    std::deque<Request> waiting_;
    WorkerPool pool_{4};
};

}  // namespace doppel::backends
