// A new qcow2 image.
#pragma once

#include "backends/block/byte_file.h"
#include "backends/block/qcow2/layout.h"

namespace doppel::backends::qcow2 {

struct CreateOptions {
    std::uint64_t size = 0;  // bytes, whole sectors
    std::uint32_t version = 3;
    std::uint32_t cluster_bits = default_cluster_bits;
    Compression compression = Compression::zlib;
    std::string backing_file;
    std::string backing_format;  // "raw" or "qcow2" with a backing file
};

// Into an empty file that can grow.
base::Result<void> create_image(ByteFile& file, const CreateOptions& options);

}  // namespace doppel::backends::qcow2
