// A backend that does every request on a thread, by an Image.
#pragma once

#include "backends/block/block.h"
#include "backends/block/image.h"
#include "backends/block/worker_pool.h"

namespace doppel::backends {

class ImageBackend final : public BlockBackend {
public:
    static base::Result<std::unique_ptr<BlockBackend>> create(base::EventLoop& loop,
                                                              std::unique_ptr<Image> image,
                                                              const BlockProperties& properties);
    ~ImageBackend() override;

private:
    static constexpr std::size_t most_threads = 8;

    ImageBackend(base::EventLoop& loop, std::unique_ptr<Image> image,
                 const BlockProperties& properties);
    void start(std::span<Request> requests) noexcept override;

    std::unique_ptr<Image> image_;
    WorkerPool pool_{most_threads};
};

// What an image says of itself, for a device.
[[nodiscard]] BlockProperties properties_of(const Image& image);
// Does one request; any thread.
[[nodiscard]] Status perform(Image& image, const Request& request) noexcept;
[[nodiscard]] Status status_of(int error);

}  // namespace doppel::backends
