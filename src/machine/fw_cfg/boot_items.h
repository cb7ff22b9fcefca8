// The standard fw_cfg items of a machine: its size, the kernel to boot, and the memory map.
#pragma once

#include "machine/boot/boot.h"
#include "machine/fw_cfg/fw_cfg.h"

namespace doppel::machine {

// The request's files are referred to, not copied.
void add_boot_items(FwCfg& fw_cfg, const boot::BootRequest& request, const boot::BootPlan& plan,
                    unsigned vcpus, std::uint64_t ram_bytes);

}  // namespace doppel::machine
