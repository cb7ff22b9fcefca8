#include "vm/vhost_user_options.h"

#include <charconv>
#include <functional>
#include <set>

#include "base/option_text.h"
#include "devices/virtio/vhost_user/fs_kind.h"

namespace doppel::vm {

namespace {

constexpr std::string_view prefix = "vhost-user:";

// False: there is no such key.
using SetKey = std::function<base::Result<bool>(const std::string& key, const std::string& value)>;

// What is in front of the first comma; each key behind it once.
base::Result<std::string> parse(std::string_view text, std::string_view keys, const SetKey& set)
{
    std::string first = base::take_option_part(text);
    std::set<std::string, std::less<>> seen;
    while (!text.empty()) {
        const auto [key, value] = base::split_key(base::take_option_part(text));
        if (!seen.insert(key).second) return base::usage_error(key + " is given twice");
        if (TRY(set(key, value))) continue;
        return base::usage_error("There is no '" + key + "' here; " + std::string{keys});
    }
    return first;
}

base::Result<std::string> socket_of(const std::string& part)
{
    if (!is_vhost_user(part)) return base::usage_error("Expected vhost-user:SOCKET");
    if (part.size() == prefix.size()) {
        return base::usage_error("The path of a socket must follow the colon");
    }
    return part.substr(prefix.size());
}

base::Result<bool> set_tag(FsSpec& spec, const std::string& key, const std::string& value)
{
    if (key != "tag") return false;
    if (value.empty() || value.size() > devices::virtio::VhostUserFs::most_tag_bytes) {
        return base::bad_value(key, value, "1 to 36 bytes");
    }
    spec.tag = value;
    return true;
}

base::Result<FsSpec> check(FsSpec spec)
{
    if (spec.tag.empty()) {
        return base::usage_error("No tag=NAME, which is what the guest mounts it by: "
                                 "mount -t virtiofs NAME /mnt");
    }
    return spec;
}

base::Result<FsSpec> parse_fs_text(std::string text)
{
    FsSpec spec;
    spec.virtio = TRY(take_virtio_options(text));
    const std::string first =
        TRY(parse(text, "the key is tag", [&](const std::string& key, const std::string& value) {
            return set_tag(spec, key, value);
        }));
    spec.socket = TRY(socket_of(first));
    return check(std::move(spec));
}

base::Result<FsSpec> parse_share_text(std::string text)
{
    FsSpec spec;
    spec.virtio = TRY(take_virtio_options(text));
    const auto set = [&](const std::string& key, const std::string& value) -> base::Result<bool> {
        if (key == "readonly") {
            spec.share.read_only = TRY(base::on_or_off(key, value));
        } else if (key == "cache") {
            if (value != "none" && value != "auto" && value != "always") {
                return base::bad_value(key, value, "none, auto or always");
            }
            spec.share.cache = value;
        } else {
            return set_tag(spec, key, value);
        }
        return true;
    };
    spec.share.folder = TRY(parse(text, "the keys are tag, readonly and cache", set));
    if (spec.share.folder.empty()) return base::usage_error("No folder named");
    return check(std::move(spec));
}

}  // namespace

bool is_vhost_user(std::string_view text) { return text.starts_with(prefix); }

base::Result<VhostUserDisk> parse_vhost_user_disk(std::string_view text)
{
    VhostUserDisk disk;
    const auto set = [&](const std::string& key, const std::string& value) -> base::Result<bool> {
        if (key != "queues") return false;
        const char* end = value.data() + value.size();
        const auto [last, error] = std::from_chars(value.data(), end, disk.queues);
        if (error != std::errc{} || last != end || disk.queues < 1 || disk.queues > 16) {
            return base::bad_value(key, value, "1 to 16");
        }
        return true;
    };
    const std::string first = TRY(parse(
        text, "the key of a disk of another process is queues; the rest is that process's", set));
    disk.socket = TRY(socket_of(first));
    return disk;
}

base::Result<FsSpec> parse_fs(std::string_view text)
{
    auto spec = parse_fs_text(std::string{text});
    if (!spec) return spec.error().with_context("--fs " + std::string{text});
    return spec;
}

base::Result<FsSpec> parse_share(std::string_view text)
{
    auto spec = parse_share_text(std::string{text});
    if (!spec) return spec.error().with_context("--share " + std::string{text});
    return spec;
}

}  // namespace doppel::vm
