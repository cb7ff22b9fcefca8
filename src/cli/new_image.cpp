#include "cli/new_image.h"

#include <bit>

#include "backends/block/host_file.h"
#include "backends/block/qcow2/create.h"

namespace doppel::cli {

using backends::ImageFormat;

namespace {

base::Result<void> set_qcow2_options(NewImage& image, const ImageArguments& arguments)
{
    if (arguments.has("--cluster-size")) {
        const std::string text = arguments.value("--cluster-size");
        const std::uint64_t size = TRY(parse_disk_size(text));
        if (!std::has_single_bit(size) || size < 512 || size > (2u << 20)) {
            return base::usage_error("--cluster-size " + text + ": expected a power of 2 from 512 "
                                     "to 2M");
        }
        image.cluster_bits = static_cast<std::uint32_t>(std::countr_zero(size));
    }
    if (arguments.has("--version")) {
        const std::string text = arguments.value("--version");
        if (text != "2" && text != "3") {
            return base::usage_error("--version " + text + ": expected 2 or 3");
        }
        image.version = text == "2" ? 2 : 3;
    }
    if (arguments.has("--compression")) {
        const std::string text = arguments.value("--compression");
        if (text != "zlib" && text != "zstd") {
            return base::usage_error("--compression " + text + ": expected zlib or zstd");
        }
        image.zstd = text == "zstd";
        if (image.zstd && image.version < 3) {
            return base::usage_error("--compression zstd: version 2 has zlib only");
        }
    }
    return {};
}

base::Result<void> set_backing(NewImage& image, const ImageArguments& arguments,
                               std::uint64_t& backing_size)
{
    image.backing_file = arguments.value("--backing");
    if (image.backing_file.empty()) return base::usage_error("--backing: the name is empty");
    backends::BlockOptions options;
    options.path = TRY(backends::backing_path(image.path, image.backing_file));
    options.read_only = true;
    const std::string format = arguments.value("--backing-format");
    if (!format.empty()) options.format = TRY(parse_image_format("--backing-format", format));
    const auto opened = backends::open_image(options);
    if (!opened) return opened.error().with_context("--backing " + image.backing_file);
    image.backing_format = format_name(opened->format);
    backing_size = opened->image->size();
    return {};
}

}  // namespace

base::Result<NewImage> describe_new_image(const ImageArguments& arguments, const std::string& path,
                                          std::string_view format, std::uint64_t& backing_size)
{
    NewImage image;
    image.path = path;
    image.format = path.ends_with(".qcow2") ? ImageFormat::qcow2 : ImageFormat::raw;
    if (arguments.has(format)) {
        image.format = TRY(parse_image_format(format, arguments.value(format)));
    }
    if (image.format == ImageFormat::raw) {
        for (const std::string_view option : {"--backing", "--cluster-size", "--compression",
                                              "--version", "--compress"}) {
            if (arguments.has(option)) {
                return base::usage_error(std::string{option} + " needs format qcow2; add " +
                                         std::string{format} + " qcow2");
            }
        }
    }
    if (arguments.has("--backing-format") && !arguments.has("--backing")) {
        return base::usage_error("--backing-format needs --backing");
    }
    TRY(set_qcow2_options(image, arguments));
    backing_size = 0;
    if (arguments.has("--backing")) TRY(set_backing(image, arguments, backing_size));
    return image;
}

base::Result<void> make_image(const NewImage& image)
{
    const auto file = TRY(backends::HostFile::create(image.path));
    if (image.format == ImageFormat::raw) {
        const int error = file->resize(image.size);
        if (error == 0) return {};
        return base::errno_error(base::ErrorKind::io, "Cannot make '" + image.path + "' so large",
                                 error);
    }
    backends::qcow2::CreateOptions options;
    options.size = image.size;
    options.version = image.version;
    options.cluster_bits = image.cluster_bits;
    options.compression = image.zstd ? backends::qcow2::Compression::zstd
                                     : backends::qcow2::Compression::zlib;
    options.backing_file = image.backing_file;
    options.backing_format = image.backing_format;
    return backends::qcow2::create_image(*file, options);
}

}  // namespace doppel::cli
