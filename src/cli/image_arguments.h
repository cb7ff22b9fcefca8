// The command lines of `doppel image ...`: options and files in any order.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/block/open_image.h"
#include "base/result.h"
#include "cli/command.h"

namespace doppel::cli {

struct ImageArguments {
    std::map<std::string, std::string, std::less<>> options;  // without a value: empty
    std::vector<std::string> files;

    [[nodiscard]] bool has(std::string_view name) const { return options.count(name) != 0; }
    // Empty when not given.
    [[nodiscard]] std::string value(std::string_view name) const
    {
        const auto found = options.find(name);
        return found == options.end() ? "" : found->second;
    }
};

struct ImageOption {
    std::string_view name;   // "--format"
    std::string_view alias;  // "-f", or empty
    bool takes_value = false;
};

// -h and --help are known to all.
base::Result<ImageArguments> parse_image(std::string_view command, const Arguments& arguments,
                                         std::span<const ImageOption> known);

// "10G", "512" (bytes); whole sectors.
base::Result<std::uint64_t> parse_disk_size(std::string_view text);
base::Result<backends::ImageFormat> parse_image_format(std::string_view option,
                                                       std::string_view text);
[[nodiscard]] std::string_view format_name(backends::ImageFormat format);
// "10 GiB (10737418240 bytes)".
[[nodiscard]] std::string size_text(std::uint64_t bytes);

}  // namespace doppel::cli
