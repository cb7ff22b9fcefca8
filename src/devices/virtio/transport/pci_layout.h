// Offsets behind the BARs of a virtio device over PCI.
#pragma once

#include <cstdint>

namespace doppel::devices::virtio::pci_layout {

// BAR 4.
inline constexpr std::uint32_t part_size = 0x1000;
inline constexpr std::uint32_t common_offset = 0, isr_offset = 0x1000, device_offset = 0x2000,
                               notify_offset = 0x3000, modern_size = 0x4000;
inline constexpr std::uint32_t notify_multiplier = 4;

// BAR 0, section 4.1.4.10.
inline constexpr std::uint32_t legacy_size = 256, legacy_notify = 16;

}  // namespace doppel::devices::virtio::pci_layout
