#include "backends/block/image_backend.h"

#include <cerrno>
#include <exception>

#include "base/log.h"

namespace doppel::backends {

Status status_of(int error)
{
    switch (error) {
        case 0: return Status::ok;
        case ENOSPC:
        case EDQUOT:
        case EFBIG: return Status::no_space;
        case EOPNOTSUPP: return Status::unsupported;
        default: return Status::io_error;
    }
}

BlockProperties properties_of(const Image& image)
{
    BlockProperties properties;
    properties.size = image.size() / properties.logical_block_size * properties.logical_block_size;
    properties.read_only = image.read_only();
    properties.discard_granularity = image.discard_granularity();
    properties.optimal_io_size = image.optimal_io_size();
    return properties;
}

Status perform(Image& image, const Request& request) noexcept
{
    using Kind = Request::Kind;
    int error = EIO;
    try {
        switch (request.kind) {
            case Kind::read: error = image.read(request.offset, request.buffers); break;
            case Kind::write: error = image.write(request.offset, request.buffers); break;
            case Kind::flush: error = image.flush(); break;
            case Kind::discard: error = image.discard(request.offset, request.length); break;
            case Kind::write_zeroes:
                error = image.write_zeroes(request.offset, request.length, request.may_unmap);
                break;
        }
        const bool writes = request.kind == Kind::write || request.kind == Kind::write_zeroes;
        if (error == 0 && request.fua && writes) error = image.flush();
    } catch (const std::exception&) {  // no memory for buffers
        error = ENOMEM;
    }
    static std::atomic<std::uint32_t> failures;
    if (error != 0 && base::log_limited(failures)) {
        spdlog::warn("A disk request at {}, {} bytes, failed: {}", request.offset, request.length,
                     base::errno_error(base::ErrorKind::io, "host", error).text());
    }
    return status_of(error);
}

ImageBackend::ImageBackend(base::EventLoop& loop, std::unique_ptr<Image> image,
                           const BlockProperties& properties)
    : BlockBackend(loop, properties), image_(std::move(image))
{
}

base::Result<std::unique_ptr<BlockBackend>> ImageBackend::create(base::EventLoop& loop,
                                                                 std::unique_ptr<Image> image,
                                                                 const BlockProperties& properties)
{
    std::unique_ptr<ImageBackend> backend{new ImageBackend{loop, std::move(image), properties}};
    TRY(backend->watch());
    return std::unique_ptr<BlockBackend>{std::move(backend)};
}

ImageBackend::~ImageBackend()
{
    pool_.stop();
}

void ImageBackend::start(std::span<Request> requests) noexcept
{
    for (Request& request : requests) {
        auto held = std::make_shared<Request>(std::move(request));
        const bool running = pool_.run([this, held] {
            const Status status = perform(*image_, *held);
            finish(std::move(*held), status);
        });
        // Without a single thread: slowly, but done.
        if (!running) {
            const Status status = perform(*image_, *held);
            finish(std::move(*held), status);
        }
    }
}

}  // namespace doppel::backends
