// What the command line may say about any virtio device, among its own keys:
//   transport=pci|mmio, legacy=on|off, without=FEATURE[+FEATURE...], access-platform=on|off
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace doppel::vm {

struct VirtioOptions {
    enum class Transport { pci, mmio };
    Transport transport = Transport::pci;
    bool legacy = true;             // the interface of before Virtio 1.0, too, where there was one
    std::uint64_t without = 0;      // feature bits that are not offered
    bool access_platform = false;   // offer VIRTIO_F_ACCESS_PLATFORM, and insist on it
    bool operator==(const VirtioOptions&) const = default;
};

// Takes those keys out of `text`, a list parted by commas (a doubled comma is none of these), from
// its second part on. Usage errors say what was found; the caller adds the option's name.
base::Result<VirtioOptions> take_virtio_options(std::string& text);

}  // namespace doppel::vm
