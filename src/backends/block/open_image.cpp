#include "backends/block/open_image.h"

#include <algorithm>
#include <array>

#include "backends/block/host_file.h"
#include "backends/block/image_backend.h"
#include "backends/block/raw_image.h"

namespace doppel::backends {

bool is_nbd_uri(std::string_view path)
{
    return path.starts_with("nbd://") || path.starts_with("nbds://") ||
           path.starts_with("nbd+unix://") || path.starts_with("nbds+unix://");
}

base::Result<std::unique_ptr<ByteFile>> open_byte_file(const BlockOptions& options)
{
    HostFileOptions host;
    host.read_only = options.read_only;
    host.cache = options.cache;
    return std::unique_ptr<ByteFile>{TRY(HostFile::open(options.path, host))};
}

base::Result<ImageFormat> probe_format(ByteFile& file)
{
    std::array<std::byte, 4> first{};
    if (file.size() < first.size()) return ImageFormat::raw;
    if (const int error = file.read_at(0, first); error != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot read '" + file.name() + "'", error);
    }
    const iovec buffer{first.data(), first.size()};
    return looks_like_image({&buffer, 1}) ? ImageFormat::qcow2 : ImageFormat::raw;
}

base::Result<OpenedImage> open_image(const BlockOptions& options)
{
    return open_image(TRY(open_byte_file(options)), options);
}

base::Result<OpenedImage> open_image(std::unique_ptr<ByteFile> file, const BlockOptions& options)
{
    const bool guessed = options.format == ImageFormat::probe;
    const ImageFormat format = guessed ? TRY(probe_format(*file)) : options.format;
    if (!options.snapshot.empty()) {
        return base::usage_error("'" + options.path + "' is raw, which has no snapshots");
    }
    const auto origin = guessed ? RawImage::Origin::guessed : RawImage::Origin::named;
    return OpenedImage{std::make_unique<RawImage>(std::move(file), origin), format};
}

}  // namespace doppel::backends
