// Where the sockets of running VMs are: DIR/PID.sock, in a folder that is this user's alone.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace doppel::control {

// The folder: "doppel" in $XDG_RUNTIME_DIR; without that variable in /run/user/UID, and for root
// in /run. The error says which was tried and what is wrong with it.
enum class Missing { create, fail };
base::Result<std::string> runtime_dir(Missing missing);

[[nodiscard]] std::string socket_path(const std::string& dir, pid_t pid);
// The processes that have a socket there, stale ones included, in order.
[[nodiscard]] std::vector<pid_t> sockets_in(const std::string& dir);

}  // namespace doppel::control
