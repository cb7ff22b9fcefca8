#include <fmt/format.h>

#include <array>
#include <cerrno>

#include "cli/image_arguments.h"
#include "cli/image_commands.h"

namespace doppel::cli {

namespace {

constexpr std::array options{
    ImageOption{"--format", "-f", true},
    ImageOption{"--shrink", "", false},
};

base::Result<std::uint64_t> new_size(std::string_view text, std::uint64_t now)
{
    const char sign = text.empty() ? '\0' : text.front();
    if (sign != '+' && sign != '-') return parse_disk_size(text);
    const std::uint64_t by = TRY(parse_disk_size(text.substr(1)));
    if (sign == '-' && by > now) {
        return base::usage_error(fmt::format("{}: the disk has only {}", text, size_text(now)));
    }
    if (sign == '+' && by > INT64_MAX - now) {
        return base::usage_error(fmt::format("{}: no disk is that large", text));
    }
    return sign == '-' ? now - by : now + by;
}

base::Result<std::string> resize(const ImageArguments& arguments)
{
    backends::BlockOptions block;
    block.path = arguments.files[0];
    if (arguments.has("--format")) {
        block.format = TRY(parse_image_format("--format", arguments.value("--format")));
    }
    const auto opened = TRY(backends::open_image(block));
    const std::uint64_t before = opened.image->size();
    const std::uint64_t size = TRY(new_size(arguments.files[1], before));
    if (size < before && !arguments.has("--shrink")) {
        return base::usage_error(fmt::format("'{}' would lose what is behind {}; if that is meant, "
                                             "add --shrink", block.path, size_text(size)));
    }
    int error = opened.image->resize(size);
    if (error == 0) error = opened.image->flush();
    if (error == EOPNOTSUPP) {
        return base::usage_error("'" + block.path + "' cannot be resized: it has snapshots, or a "
                                 "fixed size");
    }
    if (error == EFBIG) {
        return base::usage_error("'" + block.path + "' cannot be that large with its cluster size; "
                                 "'doppel image convert --cluster-size' makes one that can");
    }
    if (error != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot resize '" + block.path + "'", error);
    }
    return fmt::format("{}: {}\n", block.path, size_text(size));
}

}  // namespace

int image_resize(const Arguments& arguments)
{
    Arguments settled = arguments;
    // "-10G" is a size and no option.
    const bool shrinks = !settled.empty() && settled.back().size() > 1 &&
                         settled.back()[0] == '-' && settled.back()[1] >= '0' &&
                         settled.back()[1] <= '9';
    if (shrinks) settled.insert(settled.end() - 1, "--");
    const auto parsed = parse_image("resize", settled, options);
    if (!parsed) return fail(parsed.error());
    if (parsed->has("--help")) return print(image_resize_help);
    if (parsed->files.size() != 2) {
        return fail(base::usage_error("image resize: expected FILE and SIZE; see 'doppel image "
                                      "resize --help'"));
    }
    const auto text = resize(*parsed);
    return text ? print(*text) : fail(text.error());
}

}  // namespace doppel::cli
