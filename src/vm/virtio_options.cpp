#include "vm/virtio_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

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

base::Result<bool> on_off(std::string_view key, std::string_view value)
{
    if (value.empty() || value == "on") return true;
    if (value == "off") return false;
    return base::usage_error(std::string{key} + "=" + std::string{value} + ": expected on or off");
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
            return base::usage_error("transport=" + std::string{value} + ": expected pci or mmio");
        }
        options.transport =
            value == "pci" ? VirtioOptions::Transport::pci : VirtioOptions::Transport::mmio;
    } else if (key == "legacy") {
        options.legacy = TRY(on_off(key, value));
    } else if (key == "access-platform") {
        options.access_platform = TRY(on_off(key, value));
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
        const std::string_view part = parts[i];
        const std::size_t equals = std::min(part.find('='), part.size());
        const std::string_view value = part.substr(std::min(equals + 1, part.size()));
        if (i != 0 && TRY(set(options, part.substr(0, equals), value))) continue;
        if (i != 0) rest += ',';
        rest += part;
    }
    text = rest;
    return options;
}

}  // namespace doppel::vm
