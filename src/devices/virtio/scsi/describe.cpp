#include "devices/virtio/scsi/describe.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "devices/virtio/scsi/big_endian.h"
#include "devices/virtio/scsi/command.h"

namespace doppel::devices::virtio::scsi {

namespace {

using Bytes = std::vector<std::byte>;

constexpr std::string_view vendor = "doppel  ", product = "disk            ", revision = "1   ";
constexpr std::uint8_t serial_page = 0x80, identification_page = 0x83, limits_page = 0xb0,
                       characteristics_page = 0xb1, provisioning_page = 0xb2;

void append(Bytes& bytes, std::string_view text)
{
    for (const char c : text) bytes.push_back(static_cast<std::byte>(c));
}

void set(Bytes& bytes, std::size_t at, unsigned value)
{
    bytes.at(at) = static_cast<std::byte>(value);
}

// One designator: T10 vendor and serial number, ASCII, of the unit.
Bytes identification(const Unit& unit)
{
    Bytes bytes{std::byte{2}, std::byte{1}, std::byte{0}, std::byte{0}};
    append(bytes, vendor);
    append(bytes, unit.serial);
    set(bytes, 3, static_cast<unsigned>(bytes.size() - 4));
    return bytes;
}

Bytes limits(const Unit& unit)
{
    const backends::BlockProperties& disk = unit.disk;
    const std::uint32_t size = disk.logical_block_size;
    Bytes bytes(60);
    const auto put = [&](std::size_t page_offset, auto value) {
        put_big_endian(bytes, page_offset - 4, value);
    };
    set(bytes, 0, 1);  // WRITE SAME of no blocks is none of all blocks
    const std::uint32_t granularity = std::max(disk.physical_block_size / size, 1u);
    put(6, static_cast<std::uint16_t>(std::min(granularity, 0xffffu)));
    put(12, disk.optimal_io_size / size);
    if (disk.discard) {
        put(20, static_cast<std::uint32_t>(most_unmap_bytes / size));
        put(24, std::uint32_t{most_unmap_ranges});
        put(28, std::max(disk.discard_granularity / size, 1u));
    }
    put(36, std::uint64_t{most_same_bytes / size});
    return bytes;
}

Bytes characteristics()
{
    Bytes bytes(60);
    put_big_endian(bytes, 0, std::uint16_t{1});  // it does not rotate
    return bytes;
}

Bytes provisioning(const Unit& unit)
{
    Bytes bytes(4);
    if (!unit.disk.discard) return bytes;
    constexpr unsigned unmap = 0x80, write_same_16 = 0x40, write_same_10 = 0x20, thin = 2;
    set(bytes, 1, unmap | write_same_16 | write_same_10);
    set(bytes, 2, thin);
    return bytes;
}

Bytes serial(const Unit& unit)
{
    Bytes bytes;
    append(bytes, unit.serial);
    return bytes;
}

Bytes caching_page(const Unit& unit, bool changeable)
{
    Bytes page(20);
    set(page, 0, 0x08);
    set(page, 1, 18);
    if (!changeable && unit.disk.write_cache) set(page, 2, 0x04);
    return page;
}

Bytes control_page(bool changeable)
{
    Bytes page(12);
    set(page, 0, 0x0a);
    set(page, 1, 10);
    if (!changeable) {
        set(page, 3, 0x10);  // commands may overtake each other
        put_big_endian(page, 8, std::uint16_t{0xffff});
    }
    return page;
}

}  // namespace

std::vector<std::byte> standard_inquiry(Peripheral peripheral)
{
    Bytes bytes(8);
    set(bytes, 0, static_cast<unsigned>(peripheral));
    set(bytes, 2, 0x06);         // SPC-4
    set(bytes, 3, 0x10 | 0x02);  // LUNs in SAM's formats, this format of data
    set(bytes, 7, 0x02);         // several commands at once
    for (const std::string_view text : {vendor, product, revision}) append(bytes, text);
    set(bytes, 4, static_cast<unsigned>(bytes.size() - 5));
    return bytes;
}

std::vector<std::byte> vital_product_data(const Unit& unit, std::uint8_t page,
                                          Peripheral peripheral)
{
    Bytes body;
    if (page != 0 && peripheral == Peripheral::none) return {};
    switch (page) {
    case 0:
        body = {std::byte{0}};
        if (peripheral == Peripheral::none) break;
        for (const std::uint8_t number : {serial_page, identification_page, limits_page,
                                          characteristics_page, provisioning_page}) {
            body.push_back(std::byte{number});
        }
        break;
    case serial_page: body = serial(unit); break;
    case identification_page: body = identification(unit); break;
    case limits_page: body = limits(unit); break;
    case characteristics_page: body = characteristics(); break;
    case provisioning_page: body = provisioning(unit); break;
    default: return {};
    }
    Bytes bytes(4);
    set(bytes, 0, static_cast<unsigned>(peripheral));
    set(bytes, 1, page);
    put_big_endian(bytes, 2, static_cast<std::uint16_t>(body.size()));
    bytes.insert(bytes.end(), body.begin(), body.end());
    return bytes;
}

std::vector<std::byte> mode_pages(const Unit& unit, std::uint8_t page, std::uint8_t subpage,
                                  bool changeable, bool long_form)
{
    constexpr std::uint8_t caching = 0x08, control = 0x0a, all = 0x3f;
    const bool known = page == caching || page == control || page == all;
    if (!known || (subpage != 0 && !(page == all && subpage == 0xff))) return {};
    Bytes bytes(long_form ? 8 : 4);
    const auto add = [&bytes](const Bytes& more) {
        bytes.insert(bytes.end(), more.begin(), more.end());
    };
    if (page != control) add(caching_page(unit, changeable));
    if (page != caching) add(control_page(changeable));
    // A disk that is not written to, and FUA.
    const unsigned flags = (unit.disk.read_only ? 0x80u : 0u) | 0x10u;
    if (long_form) {
        put_big_endian(bytes, 0, static_cast<std::uint16_t>(bytes.size() - 2));
        set(bytes, 3, flags);
    } else {
        set(bytes, 0, static_cast<unsigned>(bytes.size() - 1));
        set(bytes, 2, flags);
    }
    return bytes;
}

std::vector<std::byte> capacity_10(const Unit& unit)
{
    Bytes bytes(8);
    const std::uint64_t last = unit.blocks() - 1;
    put_big_endian(bytes, 0, static_cast<std::uint32_t>(std::min<std::uint64_t>(last, 0xffffffff)));
    put_big_endian(bytes, 4, unit.disk.logical_block_size);
    return bytes;
}

std::vector<std::byte> capacity_16(const Unit& unit)
{
    Bytes bytes(32);
    put_big_endian(bytes, 0, unit.blocks() - 1);
    put_big_endian(bytes, 8, unit.disk.logical_block_size);
    const std::uint32_t ratio =
        std::max(unit.disk.physical_block_size / unit.disk.logical_block_size, 1u);
    set(bytes, 13, static_cast<unsigned>(std::bit_width(ratio) - 1));
    if (unit.disk.discard) set(bytes, 14, 0x80);  // it has a page about provisioning
    return bytes;
}

}  // namespace doppel::devices::virtio::scsi
