// /dev/kvm, opened and checked.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace doppel::engine::kvm {

struct Device {
    base::Fd fd;
    unsigned max_vcpus = 1;
    unsigned run_size = 0;  // bytes of kvm_run to map
    bool immediate_exit = false;
    bool exits_on_emulation_failure = false;
};

// A host error that names everything that is missing.
base::Result<Device> open_device();

}  // namespace doppel::engine::kvm
