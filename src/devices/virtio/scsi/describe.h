// What a disk says of itself: INQUIRY with its pages of vital product data, mode pages, capacity.
// SPC-4 sections 6.6 and 7.8, SBC-3 sections 5.15, 5.16 and 6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace doppel::devices::virtio::scsi {

struct Unit;

enum class Peripheral : std::uint8_t { disk = 0, none = 0x7f };

std::vector<std::byte> standard_inquiry(Peripheral peripheral);
// Empty: there is no such page.
std::vector<std::byte> vital_product_data(const Unit& unit, std::uint8_t page,
                                          Peripheral peripheral);
// With its header, of the long or the short command. Empty: there is no such page.
std::vector<std::byte> mode_pages(const Unit& unit, std::uint8_t page, std::uint8_t subpage,
                                  bool changeable, bool long_form);
std::vector<std::byte> capacity_10(const Unit& unit);
std::vector<std::byte> capacity_16(const Unit& unit);

}  // namespace doppel::devices::virtio::scsi
