// The virtio devices that a configuration asks for, and their places, which stay the same from
// one start to the next whatever else there is.
#pragma once

#include <vector>

#include "backends/character/character_backend.h"
#include "machine/virtio_devices.h"
#include "vm/vm_config.h"

namespace doppel::vm {

// console: what virtio consoles report to.
std::vector<machine::VirtioSpec> virtio_specs(const VmConfig& config,
                                              const backends::ConsoleEvents& console);

}  // namespace doppel::vm
