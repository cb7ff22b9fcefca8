// A file of this host through io_uring, for an image over it. Reads and writes that are no more than
// the same of the file (all of a raw one, allocated clusters of qcow2), and a raw file's flushes, go
// to the kernel in batches and come back through the event loop, without threads. What a ring does
// not do well (what changes an image's tables, discards, zeroes, requests that O_DIRECT does not
// take as they are, the odd short transfer) goes to threads.
#pragma once

#include <liburing.h>

#include <deque>

#include "backends/block/block.h"
#include "backends/block/host_file.h"
#include "backends/block/image.h"
#include "backends/block/worker_pool.h"

namespace doppel::backends {

class UringBackend final : public BlockBackend {
public:
    // Whether a file can be used this way at all: O_DIRECT with blocks above 512 bytes cannot,
    // since parts of blocks are then written by reading first, which threads keep apart.
    [[nodiscard]] static bool suits(const HostFile& file);
    struct Below {
        HostFile* file = nullptr;
        // Its sync is all that flushing the image is.
        bool sync_is_flush = false;
    };
    // `below` is what `image` is over. An error where the host has no io_uring (then `image` is as
    // it was).
    static base::Result<std::unique_ptr<BlockBackend>> create(base::EventLoop& loop,
                                                              std::unique_ptr<Image>& image,
                                                              const Below& below,
                                                              const BlockProperties& properties,
                                                              CacheMode cache);
    ~UringBackend() override;

private:
    static constexpr unsigned depth = 256;

    // In the ring, or about to be.
    struct Held {
        Request request;
        Image::Direct place;  // read, write
    };

    UringBackend(base::EventLoop& loop, const BlockProperties& properties, CacheMode cache)
        : BlockBackend(loop, properties), unsafe_(cache == CacheMode::unsafe)
    {
    }
    void start(std::span<Request> requests) noexcept override;
    void collect() noexcept override;

    [[nodiscard]] std::optional<Image::Direct> place_of(const Request& request);
    void end_place(const Held& held);
    void queue(Held&& held);
    void submit_queued();
    void completed(Held&& held, int result);
    void perform_on_thread(Request&& request);

    io_uring ring_{};
    bool ring_made_ = false;
    bool unsafe_;
    std::unique_ptr<Image> image_;
    Below below_;
    std::size_t active_ = 0;    // in the ring
    std::deque<Held> waiting_;
    WorkerPool pool_{4};
};

}  // namespace doppel::backends
