#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "backends/block/copy_image.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "cli/image_commands.h"
#include "cli/new_image.h"

namespace doppel::cli {

namespace {

using backends::ImageFormat;

constexpr std::array options{
    ImageOption{"--format", "-f", true},         ImageOption{"--output-format", "-O", true},
    ImageOption{"--compress", "-c", false},      ImageOption{"--compression", "", true},
    ImageOption{"--cluster-size", "", true},     ImageOption{"--backing", "-b", true},
    ImageOption{"--backing-format", "-F", true}, ImageOption{"--snapshot", "", true},
    ImageOption{"--quiet", "-q", false},
};

// A line on a terminal that is written over and over; nothing elsewhere.
class Progress {
public:
    Progress(std::uint64_t size, bool quiet)
        : size_(size), shown_(!quiet && ::isatty(STDERR_FILENO))
    {
    }
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    ~Progress()
    {
        if (shown_) static_cast<void>(std::fputs("\r\033[K", stderr));
    }
    void show(std::uint64_t done)
    {
        const std::uint64_t permille = size_ == 0 ? 1000 : done / (size_ / 1000 + 1);
        if (!shown_ || permille == last_) return;
        last_ = permille;
        const double percent = static_cast<double>(std::min<std::uint64_t>(permille, 1000)) / 10;
        static_cast<void>(std::fputs(fmt::format("\r{:5.1f}%", percent).c_str(), stderr));
        static_cast<void>(std::fflush(stderr));
    }

private:
    std::uint64_t size_;
    bool shown_;
    std::uint64_t last_ = UINT64_MAX;
};

base::Result<void> copy(backends::Image& from, backends::Image& to, const ImageArguments& arguments,
                        backends::CopyOptions copying)
{
    if (arguments.has("--compress")) {
        auto& target = dynamic_cast<backends::qcow2::Qcow2Image&>(to);
        copying.block = target.header().cluster_size();
        copying.write_compressed = [&](std::uint64_t offset, std::span<const std::byte> bytes) {
            return target.write_compressed(offset, bytes);
        };
    }
    Progress progress{from.size(), arguments.has("--quiet")};
    copying.progress = [&](std::uint64_t done) { progress.show(done); };
    const auto result = backends::copy_image(from, to, copying);
    if (result.error == 0) return {};
    const auto what = fmt::format("Cannot {} '{}' at {}", result.reading ? "read" : "write",
                                  arguments.files[result.reading ? 0 : 1], result.offset);
    return base::errno_error(base::ErrorKind::io, what, result.error);
}

base::Result<void> convert(const ImageArguments& arguments)
{
    const std::string& target = arguments.files[1];
    backends::BlockOptions source;
    source.path = arguments.files[0];
    source.read_only = true;
    source.snapshot = arguments.value("--snapshot");
    if (arguments.has("--format")) {
        source.format = TRY(parse_image_format("--format", arguments.value("--format")));
    }
    const auto from = TRY(backends::open_image(source));

    backends::CopyOptions copying;
    backends::BlockOptions destination;
    destination.path = target;
    std::uint64_t backing_size = 0;
    NewImage image = TRY(describe_new_image(arguments, target, "--output-format", backing_size));
    image.size = from.image->size();
    destination.format = image.format;
    if (backends::is_nbd_uri(target)) {
        if (image.format != ImageFormat::raw) {
            return base::usage_error("An NBD export is written as raw; add -O raw");
        }
        copying.target_is_zero = false;
    } else {
        TRY(make_image(image));
    }
    if (!image.backing_file.empty()) {
        copying.target_is_zero = false;
        copying.compare_with_target = true;
        copying.block = std::uint64_t{1} << image.cluster_bits;
    } else if (image.format == ImageFormat::raw) {
        copying.block = 4096;
    }
    const auto to = TRY(backends::open_image(destination));
    if (to.image->size() < image.size) {
        return base::usage_error("'" + target + "' is smaller than '" + source.path + "'");
    }
    return copy(*from.image, *to.image, arguments, copying);
}

}  // namespace

int image_convert(const Arguments& arguments)
{
    const auto parsed = parse_image("convert", arguments, options);
    if (!parsed) return fail(parsed.error());
    if (parsed->has("--help")) return print(image_convert_help);
    if (parsed->files.size() != 2) {
        return fail(base::usage_error("image convert: expected FROM and TO; see 'doppel image "
                                      "convert --help'"));
    }
    const auto done = convert(*parsed);
    return done ? exit_ok : fail(done.error());
}

}  // namespace doppel::cli
