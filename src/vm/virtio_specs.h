// The virtio devices that a configuration asks for, and their places, which stay the same from
// one start to the next whatever else there is.
#pragma once

#include <vector>

#include "machine/virtio_devices.h"
#include "vm/vm_config.h"

namespace doppel::vm {

std::vector<machine::VirtioSpec> virtio_specs(const VmConfig& config);

}  // namespace doppel::vm
