#include <fmt/format.h>
#include <sys/stat.h>

#include <array>

#include "cli/image_commands.h"
#include "cli/new_image.h"

namespace doppel::cli {

namespace {

constexpr std::array options{
    ImageOption{"--format", "-f", true},      ImageOption{"--backing", "-b", true},
    ImageOption{"--backing-format", "-F", true}, ImageOption{"--cluster-size", "", true},
    ImageOption{"--compression", "", true},   ImageOption{"--version", "", true},
    ImageOption{"--force", "", false},
};

base::Result<std::string> create(const ImageArguments& arguments)
{
    if (arguments.files.empty() || arguments.files.size() > 2) {
        return base::usage_error("image create: expected FILE and SIZE; see 'doppel image create "
                                 "--help'");
    }
    const std::string& path = arguments.files[0];
    std::uint64_t backing_size = 0;
    NewImage image = TRY(describe_new_image(arguments, path, "--format", backing_size));
    if (arguments.files.size() == 2) {
        image.size = TRY(parse_disk_size(arguments.files[1]));
    } else if (!image.backing_file.empty()) {
        image.size = backing_size;
    } else {
        return base::usage_error("image create: no SIZE given; write one, such as 20G");
    }
    struct stat about {};
    const bool there = ::stat(path.c_str(), &about) == 0 && about.st_size != 0;
    if (there && !arguments.has("--force")) {
        return base::usage_error("'" + path + "' is there already; use another name, or --force to "
                                 "replace it");
    }
    TRY(make_image(image));
    return fmt::format("{}: {}, {}{}\n", path, format_name(image.format), size_text(image.size),
                       image.backing_file.empty() ? "" : ", on top of " + image.backing_file);
}

}  // namespace

int image_create(const Arguments& arguments)
{
    const auto parsed = parse_image("create", arguments, options);
    if (!parsed) return fail(parsed.error());
    if (parsed->has("--help")) return print(image_create_help);
    const auto text = create(*parsed);
    return text ? print(*text) : fail(text.error());
}

}  // namespace doppel::cli
