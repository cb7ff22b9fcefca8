// The virtio devices that a configuration asks for, and their places, which stay the same from
// one start to the next whatever else there is.
#pragma once

#include <span>
#include <vector>

#include "backends/character/character_backend.h"
#include "machine/virtio_devices.h"
#include "vm/vm_config.h"

namespace doppel::vm {

// console: what virtio consoles report to. file_sizes: bytes, of config.pmems.
std::vector<machine::VirtioSpec> virtio_specs(const VmConfig& config,
                                              const backends::ConsoleEvents& console,
                                              std::span<const std::uint64_t> file_sizes = {});

}  // namespace doppel::vm
