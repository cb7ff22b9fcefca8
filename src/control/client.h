// Asking running VMs, from another process.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vm/vm.h"

namespace doppel::control {

// The VMs in `dir` that answer, by process; removes sockets that nobody listens at.
std::vector<pid_t> running_vms(const std::string& dir);

class Client {
public:
    static base::Result<Client> connect(const std::string& dir, pid_t pid);
    // Nothing: the VM ended. An answer that does not come within some seconds is an error.
    base::Result<std::optional<vm::VmStats>> stats();

private:
    explicit Client(base::Fd fd) : fd_(std::move(fd)) {}
    base::Fd fd_;
};

}  // namespace doppel::control
