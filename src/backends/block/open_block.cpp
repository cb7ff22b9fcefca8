#include "backends/block/block.h"
#include "backends/block/image_backend.h"
#include "backends/block/open_image.h"

namespace doppel::backends {

base::Result<std::unique_ptr<BlockBackend>> open_block(const BlockOptions& options,
                                                       base::EventLoop& loop)
{
    OpenedImage opened = TRY(open_image(options));
    BlockProperties properties = properties_of(*opened.image);
    if (options.cache == CacheMode::unsafe) properties.write_cache = true;
    return ImageBackend::create(loop, std::move(opened.image), properties);
}

}  // namespace doppel::backends
