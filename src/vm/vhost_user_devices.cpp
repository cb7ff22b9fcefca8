#include "vm/vhost_user_devices.h"

#include "devices/virtio/vhost_user/block_kind.h"
#include "devices/virtio/vhost_user/fs_kind.h"
#include "devices/virtio/vhost_user/net_kind.h"
#include "devices/virtio/vhost_user/vhost_user.h"

namespace doppel::vm {

using backends::vhost_user::SocketSource;
using backends::vhost_user::Source;
using backends::vhost_user::Virtiofsd;
using devices::virtio::DeviceFactory;
using devices::virtio::VhostUser;

namespace {

using Made = base::Result<std::unique_ptr<devices::virtio::Device>>;

Made with_option(std::string_view option, Made made)
{
    if (!made) return made.error().with_context(option);
    return made;
}

base::Result<std::unique_ptr<Source>> source_of(const FsSpec& spec)
{
    if (!spec.socket.empty()) {
        return std::unique_ptr<Source>{std::make_unique<SocketSource>(spec.socket)};
    }
    return std::unique_ptr<Source>{TRY(Virtiofsd::create(spec.share))};
}

}  // namespace

DeviceFactory vhost_user_disk(const VhostUserDisk& disk)
{
    return [disk](base::EventLoop& loop) {
        return with_option(
            "--disk", VhostUser::create(
                          std::make_unique<devices::virtio::VhostUserBlock>(disk.queues),
                          std::make_unique<SocketSource>(disk.socket), loop));
    };
}

DeviceFactory vhost_user_net(const backends::NetOptions& options, unsigned number)
{
    const auto mac = options.mac.value_or(backends::default_mac(options, number));
    const std::string& path = std::get<backends::VhostUserLink>(options.link).path;
    return [mac, path, mtu = options.mtu](base::EventLoop& loop) {
        return with_option("--net", VhostUser::create(
                                        std::make_unique<devices::virtio::VhostUserNet>(mac, mtu),
                                        std::make_unique<SocketSource>(path), loop));
    };
}

DeviceFactory vhost_user_fs(const FsSpec& spec)
{
    return [spec](base::EventLoop& loop) -> Made {
        auto kind = std::make_unique<devices::virtio::VhostUserFs>(spec.tag);
        auto source = TRY(source_of(spec));
        auto made = VhostUser::create(std::move(kind), std::move(source), loop);
        // The name of a share begins with its option.
        return spec.socket.empty() ? std::move(made) : with_option("--fs", std::move(made));
    };
}

}  // namespace doppel::vm
