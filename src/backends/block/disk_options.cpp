#include "backends/block/disk_options.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <set>

#include "base/option_text.h"

namespace doppel::backends {

namespace {

// A decimal number; with a suffix K, M, G or T where it counts bytes.
std::optional<std::uint64_t> number(std::string_view text, bool suffixes)
{
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end == text.data()) return std::nullopt;
    const std::string_view rest{end, static_cast<std::size_t>(text.data() + text.size() - end)};
    if (rest.empty()) return value;
    if (!suffixes || rest.size() != 1) return std::nullopt;
    static constexpr std::string_view letters = "KMGT";
    const char letter = rest[0] >= 'a' ? static_cast<char>(rest[0] - 'a' + 'A') : rest[0];
    const auto at = letters.find(letter);
    if (at == std::string_view::npos) return std::nullopt;
    const auto shift = 10 * (at + 1);
    if (value > std::numeric_limits<std::uint64_t>::max() >> shift) return std::nullopt;
    return value << shift;
}

base::Result<void> set_number(std::uint64_t& to, std::string_view key, std::string_view value,
                              bool suffixes)
{
    const auto found = number(value, suffixes);
    // Tokens are counted in billionths; what is above could not be told from unlimited.
    if (!found || *found == 0 || *found > (std::uint64_t{1} << 50)) {
        return base::bad_value(key, value, suffixes ? "a number above 0, with suffix K, M or G"
                                        : "a number above 0");
    }
    to = *found;
    return {};
}

base::Result<void> set(DiskOptions& options, std::string_view key, std::string_view value)
{
    BlockOptions& block = options.block;
    if (key == "format") {
        if (value == "raw") block.format = ImageFormat::raw;
        else if (value == "qcow2") block.format = ImageFormat::qcow2;
        else return base::bad_value(key, value, "raw or qcow2");
    } else if (key == "readonly") {
        block.read_only = TRY(base::on_or_off(key, value));
    } else if (key == "cache") {
        if (value == "writeback") block.cache = CacheMode::writeback;
        else if (value == "none") block.cache = CacheMode::none;
        else if (value == "unsafe") block.cache = CacheMode::unsafe;
        else return base::bad_value(key, value, "writeback, none or unsafe");
    } else if (key == "io") {
        if (value != "uring" && value != "threads") return base::bad_value(key, value, "uring or threads");
        block.use_io_uring = value == "uring";
    } else if (key == "serial") {
        const bool printable = std::all_of(value.begin(), value.end(),
                                           [](char c) { return c >= 0x20 && c < 0x7f; });
        if (value.empty() || value.size() > 20 || !printable) {
            return base::bad_value(key, value, "1 to 20 printable ASCII characters");
        }
        options.serial = value;
    } else if (key == "queues") {
        const auto count = number(value, false);
        if (!count || *count < 1 || *count > 16) return base::bad_value(key, value, "1 to 16");
        options.queues = static_cast<unsigned>(*count);
    } else if (key == "snapshot") {
        if (value.empty()) return base::bad_value(key, value, "the name or id of a snapshot");
        block.snapshot = value;
    } else if (key == "bps") {
        TRY(set_number(block.throttle.bytes, key, value, true));
    } else if (key == "iops") {
        TRY(set_number(block.throttle.requests, key, value, false));
    } else if (key == "bps_burst") {
        TRY(set_number(block.throttle.burst_bytes, key, value, true));
    } else if (key == "iops_burst") {
        TRY(set_number(block.throttle.burst_requests, key, value, false));
    } else {
        return base::usage_error("There is no '" + std::string{key} + "'; the keys are format, "
                                 "readonly, cache, io, serial, queues, snapshot, bps, iops, "
                                 "bps_burst and iops_burst");
    }
    return {};
}

}  // namespace

base::Result<DiskOptions> parse_disk_options(std::string_view text)
{
    DiskOptions options;
    options.block.path = base::take_option_part(text);
    if (options.block.path.empty()) return base::usage_error("No file named");
    std::set<std::string, std::less<>> seen;
    while (!text.empty()) {
        const auto [key, value] = base::split_key(base::take_option_part(text));
        if (!seen.insert(key).second) return base::usage_error(key + " is given twice");
        TRY(set(options, key, value));
    }
    const ThrottleLimits& throttle = options.block.throttle;
    if (throttle.burst_bytes != 0 && throttle.bytes == 0) {
        return base::usage_error("bps_burst needs bps");
    }
    if (throttle.burst_requests != 0 && throttle.requests == 0) {
        return base::usage_error("iops_burst needs iops");
    }
    if (!options.block.snapshot.empty()) options.block.read_only = true;
    return options;
}

}  // namespace doppel::backends
