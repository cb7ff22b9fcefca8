// Puts an image together: protocol, format, backing files.
#pragma once

#include "backends/block/block.h"
#include "backends/block/image.h"

namespace doppel::backends {

struct OpenedImage {
    std::unique_ptr<Image> image;
    ImageFormat format = ImageFormat::raw;  // what it turned out to be
};

// The protocol alone: a file of this host, or an NBD export.
base::Result<std::unique_ptr<ByteFile>> open_byte_file(const BlockOptions& options);
[[nodiscard]] bool is_nbd_uri(std::string_view path);

// Everything, for a caller that blocks: the commands, a backend's threads.
base::Result<OpenedImage> open_image(const BlockOptions& options);
base::Result<OpenedImage> open_image(std::unique_ptr<ByteFile> file, const BlockOptions& options);

// Where a backing file is that an image names: absolute, or relative to the image.
base::Result<std::string> backing_path(std::string_view image, std::string_view backing);

// What the first bytes say; raw when nothing is known.
base::Result<ImageFormat> probe_format(ByteFile& file);

}  // namespace doppel::backends
