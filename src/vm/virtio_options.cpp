#include "vm/virtio_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include "base/option_text.h"
#include "devices/virtio/virtio.h"

namespace doppel::vm {

namespace {

struct Name {
    std::string_view name;
    std::uint64_t bits;
};
constexpr std::array names{
    Name{"indirect", devices::virtio::VIRTIO_F_INDIRECT_DESC},
    Name{"event-idx", devices::virtio::VIRTIO_F_EVENT_IDX},
    Name{"packed", devices::virtio::VIRTIO_F_RING_PACKED},
};

// At single commas; doubled ones stay as they are.
std::vector<std::string> split(std::string_view text)
{
    std::vector<std::string> parts{""};
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != ',') {
            parts.back() += text[i];
        } else if (text.substr(i).starts_with(",,")) {
            parts.back() += ",,";
            ++i;
        } else {
            parts.emplace_back();
        }
    }
    return parts;
}

// A name, or the number of a feature bit.
std::optional<std::uint64_t> feature(std::string_view text)
{
    for (const Name& name : names) {
        if (name.name == text) return name.bits;
    }
    unsigned bit = 64;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bit);
    if (error != std::errc{} || end != text.data() + text.size() || bit >= 64) return std::nullopt;
    return std::uint64_t{1} << bit;
}

base::Result<std::uint64_t> features(std::string_view text)
{
    std::uint64_t bits = 0;
    for (;;) {
        const std::size_t end = std::min(text.find('+'), text.size());
        const auto found = feature(text.substr(0, end));
        if (!found) {
            return base::usage_error("without=" + std::string{text.substr(0, end)} +
                                     ": expected indirect, event-idx, packed or the number of a "
                                     "feature bit, several joined by +");
        }
        bits |= *found;
        if (end == text.size()) return bits;
        text.remove_prefix(end + 1);
    }
}

// False: not one of these keys.
base::Result<bool> set(VirtioOptions& options, std::string_view key, std::string_view value)
{
    if (key == "transport") {
        if (value != "pci" && value != "mmio") {
            return base::bad_value(key, value, "pci or mmio");
        }
        options.transport =
            value == "pci" ? VirtioOptions::Transport::pci : VirtioOptions::Transport::mmio;
    } else if (key == "legacy") {
        options.legacy = TRY(base::on_or_off(key, value));
    } else if (key == "access-platform") {
        options.access_platform = TRY(base::on_or_off(key, value));
    } else if (key == "without") {
        options.without |= TRY(features(value));
    } else {
        return false;
    }
    return true;
}

}  // namespace

base::Result<VirtioOptions> take_virtio_options(std::string& text)
{
    VirtioOptions options;
    std::string rest;
    const std::vector<std::string> parts = split(text);
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const auto [key, value] = base::split_key(parts[i]);
        if (i != 0 && TRY(set(options, key, value))) continue;
        if (i != 0) rest += ',';
        rest += parts[i];
    }
    text = rest;
    return options;
}

}  // namespace doppel::vm
