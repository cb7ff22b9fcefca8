#include "cli/image_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace doppel::cli {

base::Result<ImageArguments> parse_image(std::string_view command, const Arguments& arguments,
                                         std::span<const ImageOption> known)
{
    const auto bad = [&](const std::string& text) {
        return base::usage_error(fmt::format("image {}: {}; see 'doppel image {} --help'", command,
                                             text, command));
    };
    ImageArguments parsed;
    bool only_files = false;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (only_files || argument.size() < 2 || argument.front() != '-') {
            parsed.files.push_back(argument);
            continue;
        }
        if (argument == "--") {
            only_files = true;
            continue;
        }
        const auto equals = argument.starts_with("--") ? argument.find('=') : std::string::npos;
        const std::string_view name = std::string_view{argument}.substr(0, equals);
        if (name == "-h" || name == "--help") {
            parsed.options["--help"] = "";
            continue;
        }
        const auto option = std::find_if(known.begin(), known.end(), [&](const ImageOption& one) {
            return name == one.name || name == one.alias;
        });
        if (option == known.end()) return bad(fmt::format("unknown option '{}'", argument));
        std::string value;
        if (equals != std::string::npos) {
            if (!option->takes_value) return bad(fmt::format("{} takes no value", option->name));
            value = argument.substr(equals + 1);
        } else if (option->takes_value) {
            if (i + 1 == arguments.size()) return bad(fmt::format("{} needs a value", name));
            value = arguments[++i];
        }
        if (!parsed.options.emplace(option->name, value).second) {
            return bad(fmt::format("{} is given twice", option->name));
        }
    }
    return parsed;
}

base::Result<std::uint64_t> parse_disk_size(std::string_view text)
{
    const auto bad = [&] {
        return base::usage_error(fmt::format("'{}' is no size; write a number, with suffix K, M, G "
                                             "or T, such as 20G", text));
    };
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{}) return bad();
    const std::string_view suffix{end, static_cast<std::size_t>(text.data() + text.size() - end)};
    if (suffix.size() > 1) return bad();
    if (!suffix.empty()) {
        static constexpr std::string_view letters = "KMGTkmgt";
        const auto at = letters.find(suffix[0]);
        if (at == std::string_view::npos) return bad();
        const auto shift = 10 * (at % 4 + 1);
        if (value > UINT64_MAX >> shift) return bad();
        value <<= shift;
    }
    if (value > INT64_MAX - 511) return bad();
    return (value + 511) / 512 * 512;
}

base::Result<backends::ImageFormat> parse_image_format(std::string_view option,
                                                       std::string_view text)
{
    if (text == "raw") return backends::ImageFormat::raw;
    if (text == "qcow2") return backends::ImageFormat::qcow2;
    return base::usage_error(fmt::format("{} {}: expected raw or qcow2", option, text));
}

std::string_view format_name(backends::ImageFormat format)
{
    return format == backends::ImageFormat::qcow2 ? "qcow2" : "raw";
}

std::string size_text(std::uint64_t bytes)
{
    static constexpr std::array units{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    std::size_t unit = 0;
    auto value = static_cast<double>(bytes);
    for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
    if (unit == 0) return fmt::format("{} bytes", bytes);
    return fmt::format("{:.3g} {} ({} bytes)", value, units[unit], bytes);
}

}  // namespace doppel::cli
