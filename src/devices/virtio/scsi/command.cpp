#include "devices/virtio/scsi/command.h"

#include <algorithm>

#include "devices/virtio/scsi/big_endian.h"
#include "devices/virtio/scsi/describe.h"

namespace doppel::devices::virtio::scsi {

namespace {

// What the guest has room for of what there is to say.
Answer limited(std::vector<std::byte> data, std::uint64_t allocation)
{
    if (data.size() > allocation) data.resize(allocation);
    return Answer{std::move(data)};
}

// Sense: no_sense if the blocks are the disk's.
Sense check_range(const Unit& unit, std::uint64_t block, std::uint64_t count)
{
    const bool inside = block <= unit.blocks() && count <= unit.blocks() - block;
    return inside ? no_sense : block_out_of_range;
}

struct Blocks {
    std::uint64_t first, count;
};

Command transfer(const Unit& unit, const Cdb& cdb, const Blocks& blocks, bool write)
{
    const bool long_form = cdb[0] > 0x1f;  // the short one has addresses where these are
    if (long_form && (cdb[1] & 0xe0) != 0) return Answer{invalid_field_in_cdb};  // protection
    if (write && unit.disk.read_only) return Answer{write_protected};
    if (const Sense sense = check_range(unit, blocks.first, blocks.count); sense != no_sense) {
        return Answer{sense};
    }
    if (blocks.count == 0) return Answer{no_sense};
    const std::uint64_t size = unit.disk.logical_block_size;
    return Transfer{write, write && long_form && (cdb[1] & 0x08) != 0, blocks.first * size,
                    blocks.count * size};
}

Blocks blocks_6(const Cdb& cdb)
{
    const std::uint64_t first = big_endian<std::uint32_t>(cdb, 0) & 0x1fffff;
    return {first, cdb[4] == 0 ? 256u : cdb[4]};
}
Blocks blocks_10(const Cdb& cdb)
{
    return {big_endian<std::uint32_t>(cdb, 2), big_endian<std::uint16_t>(cdb, 7)};
}
Blocks blocks_12(const Cdb& cdb)
{
    return {big_endian<std::uint32_t>(cdb, 2), big_endian<std::uint32_t>(cdb, 6)};
}
Blocks blocks_16(const Cdb& cdb)
{
    return {big_endian<std::uint64_t>(cdb, 2), big_endian<std::uint32_t>(cdb, 10)};
}

Command flush(const Unit& unit, const Blocks& blocks)
{
    if (const Sense sense = check_range(unit, blocks.first, blocks.count); sense != no_sense) {
        return Answer{sense};
    }
    return Flush{};
}

Command write_same(const Unit& unit, const Cdb& cdb, Blocks blocks, bool has_block)
{
    constexpr std::uint8_t protection = 0xe0, anchor = 0x10, unmap = 0x08, obsolete = 0x06;
    if ((cdb[1] & (protection | anchor | obsolete)) != 0) return Answer{invalid_field_in_cdb};
    if (unit.disk.read_only) return Answer{write_protected};
    const std::uint64_t size = unit.disk.logical_block_size;
    // No number means all to the end, which the limits page says is too much.
    if (blocks.count == 0 || blocks.count > most_same_bytes / size) {
        return Answer{invalid_field_in_cdb};
    }
    if (const Sense sense = check_range(unit, blocks.first, blocks.count); sense != no_sense) {
        return Answer{sense};
    }
    return WriteSame{blocks.first * size, blocks.count * size, (cdb[1] & unmap) != 0, has_block};
}

Command unmap(const Unit& unit, const Cdb& cdb)
{
    if (!unit.disk.discard) return Answer{invalid_opcode};
    if ((cdb[1] & 1) != 0) return Answer{invalid_field_in_cdb};  // anchor
    if (unit.disk.read_only) return Answer{write_protected};
    const auto size = big_endian<std::uint16_t>(cdb, 7);
    if (size == 0) return Answer{no_sense};
    return size < 8 ? Command{Answer{parameter_list_length_error}} : Command{Unmap{size}};
}

Answer inquiry(const Unit& unit, const Cdb& cdb, Peripheral peripheral)
{
    const auto allocation = big_endian<std::uint16_t>(cdb, 3);
    if ((cdb[1] & 0xfe) != 0) return Answer{invalid_field_in_cdb};
    if ((cdb[1] & 1) == 0) {
        return cdb[2] == 0 ? limited(standard_inquiry(peripheral), allocation)
                           : Answer{invalid_field_in_cdb};
    }
    auto page = vital_product_data(unit, cdb[2], peripheral);
    return page.empty() ? Answer{invalid_field_in_cdb} : limited(std::move(page), allocation);
}

Answer report_luns(const Cdb& cdb)
{
    // The well-known units, which there are none of, or all others: one, of number 0.
    const auto allocation = big_endian<std::uint32_t>(cdb, 6);
    if (cdb[2] > 2 || allocation < 16) return Answer{invalid_field_in_cdb};
    std::vector<std::byte> data(cdb[2] == 1 ? 8 : 16);
    put_big_endian(data, 0, static_cast<std::uint32_t>(data.size() - 8));
    return limited(std::move(data), allocation);
}

Answer request_sense(const Cdb& cdb, const Sense& sense)
{
    if ((cdb[1] & 0xfe) != 0) return Answer{invalid_field_in_cdb};
    std::vector<std::byte> data;
    if ((cdb[1] & 1) != 0) {
        data.resize(8);
        data[0] = std::byte{0x72};
        data[1] = static_cast<std::byte>(sense.key);
        put_big_endian(data, 2, sense.code);
    } else {
        const auto bytes = sense_bytes(sense);
        data.assign(bytes.begin(), bytes.end());
    }
    return limited(std::move(data), cdb[4]);
}

Answer mode_sense(const Unit& unit, const Cdb& cdb, bool long_form)
{
    constexpr std::uint8_t changeable = 1, saved = 3;
    const std::uint8_t control = cdb[2] >> 6;
    if (control == saved) return Answer{saving_not_supported};
    auto data = mode_pages(unit, cdb[2] & 0x3f, cdb[3], control == changeable, long_form);
    if (data.empty()) return Answer{invalid_field_in_cdb};
    const std::uint64_t allocation = long_form ? big_endian<std::uint16_t>(cdb, 7) : cdb[4];
    return limited(std::move(data), allocation);
}

Answer read_capacity_10(const Unit& unit)
{
    return unit.blocks() == 0 ? Answer{medium_not_present} : Answer{capacity_10(unit)};
}

Answer service_action_in(const Unit& unit, const Cdb& cdb)
{
    if ((cdb[1] & 0x1f) != READ_CAPACITY_16) return Answer{invalid_field_in_cdb};
    if (unit.blocks() == 0) return Answer{medium_not_present};
    return limited(capacity_16(unit), big_endian<std::uint32_t>(cdb, 10));
}

}  // namespace

Command decode(const Unit& unit, const Cdb& cdb)
{
    using enum Opcode;
    switch (static_cast<Opcode>(cdb[0])) {
    case TEST_UNIT_READY:
    case START_STOP_UNIT: return Answer{no_sense};
    case REQUEST_SENSE: return request_sense(cdb, no_sense);
    case INQUIRY: return inquiry(unit, cdb, Peripheral::disk);
    case REPORT_LUNS: return report_luns(cdb);
    case MODE_SENSE_6: return mode_sense(unit, cdb, false);
    case MODE_SENSE_10: return mode_sense(unit, cdb, true);
    case READ_CAPACITY_10: return read_capacity_10(unit);
    case SERVICE_ACTION_IN_16: return service_action_in(unit, cdb);
    case READ_6: return transfer(unit, cdb, blocks_6(cdb), false);
    case READ_10: return transfer(unit, cdb, blocks_10(cdb), false);
    case READ_12: return transfer(unit, cdb, blocks_12(cdb), false);
    case READ_16: return transfer(unit, cdb, blocks_16(cdb), false);
    case WRITE_6: return transfer(unit, cdb, blocks_6(cdb), true);
    case WRITE_10: return transfer(unit, cdb, blocks_10(cdb), true);
    case WRITE_12: return transfer(unit, cdb, blocks_12(cdb), true);
    case WRITE_16: return transfer(unit, cdb, blocks_16(cdb), true);
    case SYNCHRONIZE_CACHE_10: return flush(unit, blocks_10(cdb));
    case SYNCHRONIZE_CACHE_16: return flush(unit, blocks_16(cdb));
    case WRITE_SAME_10: return write_same(unit, cdb, blocks_10(cdb), true);
    case WRITE_SAME_16: return write_same(unit, cdb, blocks_16(cdb), (cdb[1] & 1) == 0);
    case UNMAP: return unmap(unit, cdb);
    }
    return Answer{invalid_opcode};
}

Answer decode_missing(const Cdb& cdb)
{
    switch (static_cast<Opcode>(cdb[0])) {
    case Opcode::INQUIRY: return inquiry({}, cdb, Peripheral::none);
    case Opcode::REPORT_LUNS: return report_luns(cdb);
    case Opcode::REQUEST_SENSE: return request_sense(cdb, unit_not_supported);
    default: return Answer{unit_not_supported};
    }
}

// SBC-3 section 5.28: two lengths, then descriptors of an address and a number.
Ranges unmap_ranges(const Unit& unit, std::span<const std::byte> list)
{
    constexpr std::size_t header = 8, descriptor = 16;
    if (list.size() < header) return {parameter_list_length_error, {}};
    const std::size_t named = big_endian<std::uint16_t>(list, 2);
    list = list.subspan(header, std::min(named, list.size() - header) / descriptor * descriptor);
    Ranges ranges;
    std::uint64_t sum = 0;
    const std::uint64_t size = unit.disk.logical_block_size;
    for (; !list.empty(); list = list.subspan(descriptor)) {
        const auto first = big_endian<std::uint64_t>(list, 0);
        const std::uint64_t count = big_endian<std::uint32_t>(list, 8);
        if (const Sense sense = check_range(unit, first, count); sense != no_sense) {
            return {sense, {}};
        }
        sum += count * size;
        if (sum > most_unmap_bytes || ranges.list.size() == most_unmap_ranges) {
            return {invalid_field_in_parameters, {}};
        }
        if (count != 0) ranges.list.push_back({first * size, count * size});
    }
    return ranges;
}

Sense sense_of(backends::Status status, bool writes)
{
    switch (status) {
    case backends::Status::ok: return no_sense;
    case backends::Status::no_space: return space_allocation_failed;
    case backends::Status::unsupported: return invalid_opcode;
    case backends::Status::invalid: return invalid_field_in_cdb;
    case backends::Status::io_error: break;
    }
    return writes ? write_error : unrecovered_read_error;
}

std::array<std::byte, sense_size> sense_bytes(const Sense& sense)
{
    std::array<std::byte, sense_size> bytes{};
    bytes[0] = std::byte{0x70};
    bytes[2] = static_cast<std::byte>(sense.key);
    bytes[7] = std::byte{sense_size - 8};
    put_big_endian(bytes, 12, sense.code);
    return bytes;
}

}  // namespace doppel::devices::virtio::scsi
