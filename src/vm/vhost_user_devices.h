// Virtio devices whose work other processes do, from what the command line said.
#pragma once

#include "devices/virtio/transport/frontend.h"
#include "vm/vm_config.h"

namespace doppel::vm {

devices::virtio::DeviceFactory vhost_user_disk(const VhostUserDisk& disk);
// options.link: a VhostUserLink. number: of the card, for its address.
devices::virtio::DeviceFactory vhost_user_net(const backends::NetOptions& options,
                                              unsigned number);
devices::virtio::DeviceFactory vhost_user_fs(const FsSpec& spec);

}  // namespace doppel::vm
