#include "backends/block/block.h"
#include "backends/block/host_file.h"
#include "backends/block/image_backend.h"
#include "backends/block/open_image.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "backends/block/raw_image.h"
#include "backends/block/throttled_backend.h"
#include "backends/block/uring_backend.h"
#include "base/log.h"

namespace doppel::backends {

namespace {

UringBackend::Below below(Image& image)
{
    if (auto* raw = dynamic_cast<RawImage*>(&image)) {
        return {dynamic_cast<HostFile*>(&raw->file()), true};
    }
    if (auto* qcow2 = dynamic_cast<qcow2::Qcow2Image*>(&image)) {
        return {dynamic_cast<HostFile*>(&qcow2->file()), false};
    }
    return {};
}

// What a ring can serve; null for the others.
base::Result<std::unique_ptr<BlockBackend>> through_ring(const BlockOptions& options,
                                                         base::EventLoop& loop,
                                                         OpenedImage& opened,
                                                         const BlockProperties& properties)
{
    const UringBackend::Below file = below(*opened.image);
    if (!options.use_io_uring || file.file == nullptr || !UringBackend::suits(*file.file)) {
        return std::unique_ptr<BlockBackend>{};
    }
    auto backend = UringBackend::create(loop, opened.image, file, properties, options.cache);
    if (backend) return backend;
    spdlog::info("'{}': {}; threads do it instead", options.path, backend.error().text());
    return std::unique_ptr<BlockBackend>{};
}

}  // namespace

base::Result<std::unique_ptr<BlockBackend>> open_block(const BlockOptions& options,
                                                       base::EventLoop& loop)
{
    OpenedImage opened = TRY(open_image(options));
    const BlockProperties properties = properties_of(*opened.image);
    auto backend = TRY(through_ring(options, loop, opened, properties));
    if (!backend) {
        backend = TRY(ImageBackend::create(loop, std::move(opened.image), properties));
    }
    if (!options.throttle.any()) return backend;
    return ThrottledBackend::create(loop, std::move(backend), options.throttle);
}

}  // namespace doppel::backends
