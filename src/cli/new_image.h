// What `create` and `convert` share: making the file.
#pragma once

#include "cli/image_arguments.h"

namespace doppel::cli {

struct NewImage {
    std::string path;
    backends::ImageFormat format = backends::ImageFormat::raw;
    std::uint64_t size = 0;
    std::uint32_t version = 3;
    std::uint32_t cluster_bits = 16;
    bool zstd = false;
    std::string backing_file;
    std::string backing_format;
};

// From --backing, --cluster-size and the like; `format` is the option that names the format, or
// else the file's name decides. Opens the backing file to see that it is one; its size goes to
// `backing_size` (0: none).
base::Result<NewImage> describe_new_image(const ImageArguments& arguments, const std::string& path,
                                          std::string_view format, std::uint64_t& backing_size);
// Empties a file that is there.
base::Result<void> make_image(const NewImage& image);

}  // namespace doppel::cli
