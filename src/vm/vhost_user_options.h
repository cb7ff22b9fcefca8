// What the command line says about devices of other processes:
//   --disk vhost-user:SOCKET[,queues=N]
//   --fs vhost-user:SOCKET,tag=NAME          --share DIR,tag=NAME[,readonly][,cache=MODE]
#pragma once

#include <string>
#include <string_view>

#include "backends/vhost_user/virtiofsd.h"
#include "base/result.h"
#include "vm/virtio_options.h"

namespace doppel::vm {

struct VhostUserDisk {
    std::string socket;
    unsigned queues = 1;  // 1 to 16
};

// A file system: of a back end that listens, or of a virtiofsd that is started.
struct FsSpec {
    std::string tag;     // what the guest mounts it by, 1 to 36 bytes
    std::string socket;  // empty: share
    backends::vhost_user::ShareOptions share;
    VirtioOptions virtio;
};
inline constexpr unsigned most_file_systems = 2;

// Of what follows --disk; usage errors say what was found, the caller adds the option's name.
[[nodiscard]] bool is_vhost_user(std::string_view text);
base::Result<VhostUserDisk> parse_vhost_user_disk(std::string_view text);
// These add the name themselves.
base::Result<FsSpec> parse_fs(std::string_view text);
base::Result<FsSpec> parse_share(std::string_view text);

}  // namespace doppel::vm
