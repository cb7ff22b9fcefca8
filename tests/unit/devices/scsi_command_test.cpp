// Commands of a disk: bytes in, a value out.
#include <gtest/gtest.h>

#include <random>

#include "devices/virtio/scsi/big_endian.h"
#include "devices/virtio/scsi/command.h"

namespace doppel::devices::virtio::scsi {
namespace {

Unit unit(std::uint64_t blocks = 1000, std::uint32_t block_size = 512)
{
    Unit unit;
    unit.disk.size = blocks * block_size;
    unit.disk.logical_block_size = block_size;
    unit.serial = "disk0";
    return unit;
}

Cdb cdb(std::initializer_list<unsigned> bytes)
{
    Cdb cdb{};
    std::size_t at = 0;
    for (const unsigned byte : bytes) cdb.at(at++) = static_cast<std::uint8_t>(byte);
    return cdb;
}

Sense refused(const Command& command)
{
    const auto* answer = std::get_if<Answer>(&command);
    if (answer == nullptr) return {Key::NO_SENSE, 0xffff};
    EXPECT_TRUE(answer->data.empty() || answer->sense == no_sense);
    return answer->sense;
}

std::vector<std::byte> data(const Command& command)
{
    const auto* answer = std::get_if<Answer>(&command);
    EXPECT_NE(answer, nullptr);
    if (answer == nullptr) return {};
    EXPECT_EQ(answer->sense, no_sense);
    return answer->data;
}

void expect_transfer(const Command& command, bool write, std::uint64_t block, std::uint64_t count,
                     bool fua = false)
{
    const auto* transfer = std::get_if<Transfer>(&command);
    ASSERT_NE(transfer, nullptr);
    EXPECT_EQ(transfer->write, write);
    EXPECT_EQ(transfer->offset, block * 512);
    EXPECT_EQ(transfer->length, count * 512);
    EXPECT_EQ(transfer->fua, fua);
}

TEST(ScsiCommand, ReadsAndWritesOfAllLengths)
{
    const Unit big = unit(std::uint64_t{1} << 40);
    expect_transfer(decode(big, cdb({0x08, 0xff, 2, 3, 4})), false, 0x1f0203, 4);
    expect_transfer(decode(big, cdb({0x0a, 0, 2, 3, 0})), true, 0x203, 256);
    expect_transfer(decode(big, cdb({0x28, 0x08, 1, 2, 3, 4, 0, 5, 6})), false, 0x01020304, 0x506);
    expect_transfer(decode(big, cdb({0x2a, 0x08, 1, 2, 3, 4, 0, 5, 6})), true, 0x01020304, 0x506,
                    true);
    expect_transfer(decode(big, cdb({0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8})), false, 0x01020304,
                    0x05060708);
    expect_transfer(decode(big, cdb({0xaa, 0, 1, 2, 3, 4, 0, 0, 0, 1})), true, 0x01020304, 1);
    expect_transfer(decode(big, cdb({0x88, 0, 0, 0, 0, 0xff, 0, 0, 0, 1, 0, 0, 0, 2})), false,
                    0xff00000001, 2);
    expect_transfer(decode(big, cdb({0x8a, 0x08, 0, 0, 0, 0xff, 0, 0, 0, 1, 0, 0, 0, 2})), true,
                    0xff00000001, 2, true);
}

TEST(ScsiCommand, RangesEndWithTheDisk)
{
    const Unit disk = unit();
    EXPECT_EQ(refused(decode(disk, cdb({0x28, 0, 0, 0, 0x03, 0xe7, 0, 0, 2}))), block_out_of_range);
    expect_transfer(decode(disk, cdb({0x28, 0, 0, 0, 0x03, 0xe7, 0, 0, 1})), false, 999, 1);
    EXPECT_EQ(refused(decode(disk, cdb({0x28, 0, 0, 0, 0x03, 0xe8, 0, 0, 0}))), no_sense) << "none";
    EXPECT_EQ(refused(decode(disk, cdb({0x28, 0, 0, 0, 0x03, 0xe9, 0, 0, 0}))), block_out_of_range);
    EXPECT_EQ(refused(decode(disk, cdb({0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0,
                                        0, 0, 1}))),
              block_out_of_range);
    EXPECT_EQ(refused(decode(disk, cdb({0x35, 0, 0, 0, 0x10, 0, 0, 0, 1}))), block_out_of_range);
    EXPECT_TRUE(std::holds_alternative<Flush>(decode(disk, cdb({0x35}))));
    EXPECT_TRUE(std::holds_alternative<Flush>(decode(disk, cdb({0x91}))));
}

TEST(ScsiCommand, ProtectionIsNotThere)
{
    EXPECT_EQ(refused(decode(unit(), cdb({0x28, 0x20, 0, 0, 0, 0, 0, 0, 1}))), invalid_field_in_cdb);
    EXPECT_EQ(refused(decode(unit(), cdb({0x8a, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}))),
              invalid_field_in_cdb);
}

TEST(ScsiCommand, ReadOnlyDisks)
{
    Unit disk = unit();
    disk.disk.read_only = true;
    for (const unsigned opcode : {0x0a, 0x2a, 0xaa, 0x8a, 0x41, 0x93, 0x42}) {
        EXPECT_EQ(refused(decode(disk, cdb({opcode, 0, 0, 0, 0, 0, 0, 0, 24, 1, 0, 0, 0, 1}))),
                  write_protected)
            << opcode;
    }
    const auto mode = data(decode(disk, cdb({0x1a, 0, 0x3f, 0, 255})));
    EXPECT_NE(std::to_integer<unsigned>(mode[2]) & 0x80, 0u);
}

TEST(ScsiCommand, WhatThereIsNot)
{
    // PERSISTENT RESERVE IN and OUT, RESERVE, FORMAT UNIT, MODE SELECT, COMPARE AND WRITE, ...
    for (const unsigned opcode : {0x5e, 0x5f, 0x16, 0x04, 0x15, 0x55, 0x89, 0xa3, 0x7f, 0xff}) {
        EXPECT_EQ(refused(decode(unit(), cdb({opcode}))), invalid_opcode) << opcode;
    }
    EXPECT_EQ(refused(decode(unit(), cdb({0x9e, 0x11}))), invalid_field_in_cdb);
}

TEST(ScsiCommand, Inquiry)
{
    const auto standard = data(decode(unit(), cdb({0x12, 0, 0, 0, 255})));
    ASSERT_EQ(standard.size(), 36u);
    EXPECT_EQ(standard[0], std::byte{0});
    EXPECT_EQ(standard[4], std::byte{31});
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(standard.data()) + 8, 6), "doppel");
    EXPECT_EQ(data(decode(unit(), cdb({0x12, 0, 0, 0, 5}))).size(), 5u);
    EXPECT_EQ(refused(decode(unit(), cdb({0x12, 0, 0x80, 0, 255}))), invalid_field_in_cdb);
    EXPECT_EQ(refused(decode(unit(), cdb({0x12, 2, 0, 0, 255}))), invalid_field_in_cdb);
    EXPECT_EQ(refused(decode(unit(), cdb({0x12, 1, 0xc0, 0, 255}))), invalid_field_in_cdb);
}

TEST(ScsiCommand, VitalProductDataListsWhatThereIs)
{
    const auto list = data(decode(unit(), cdb({0x12, 1, 0, 0, 255})));
    ASSERT_EQ(list.size(), 4 + big_endian<std::uint16_t>(list, 2));
    for (std::size_t i = 4; i < list.size(); ++i) {
        const auto number = std::to_integer<unsigned>(list[i]);
        const auto page = data(decode(unit(), cdb({0x12, 1, number, 0xff, 0xff})));
        ASSERT_GE(page.size(), 4u);
        EXPECT_EQ(page[1], list[i]);
        EXPECT_EQ(page.size(), 4u + big_endian<std::uint16_t>(page, 2));
    }
    const auto serial = data(decode(unit(), cdb({0x12, 1, 0x80, 0, 255})));
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(serial.data()) + 4, 5), "disk0");
    const auto limits = data(decode(unit(), cdb({0x12, 1, 0xb0, 0, 255})));
    EXPECT_EQ(limits.size(), 64u);
    EXPECT_EQ(big_endian<std::uint64_t>(limits, 36), most_same_bytes / 512);
    EXPECT_EQ(big_endian<std::uint32_t>(limits, 20), most_unmap_bytes / 512);
    const auto provisioning = data(decode(unit(), cdb({0x12, 1, 0xb2, 0, 255})));
    EXPECT_EQ(provisioning.size(), 8u);
    EXPECT_EQ(provisioning[5], std::byte{0xe0});
}

TEST(ScsiCommand, Capacity)
{
    const auto small = data(decode(unit(1000, 4096), cdb({0x25})));
    EXPECT_EQ(big_endian<std::uint32_t>(small, 0), 999u);
    EXPECT_EQ(big_endian<std::uint32_t>(small, 4), 4096u);
    const Unit big = unit(std::uint64_t{1} << 33);
    EXPECT_EQ(big_endian<std::uint32_t>(data(decode(big, cdb({0x25}))), 0), ~0u);
    const auto full = data(decode(big, cdb({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32})));
    ASSERT_EQ(full.size(), 32u);
    EXPECT_EQ(big_endian<std::uint64_t>(full, 0), (std::uint64_t{1} << 33) - 1);
    EXPECT_EQ(full[13], std::byte{3});  // 4096 bytes behind 512
    EXPECT_EQ(refused(decode(unit(0), cdb({0x25}))), medium_not_present);
    EXPECT_EQ(refused(decode(unit(0), cdb({0x9e, 0x10}))), medium_not_present);
}

TEST(ScsiCommand, ModePages)
{
    const auto all = data(decode(unit(), cdb({0x1a, 0, 0x3f, 0, 255})));
    EXPECT_EQ(all.size(), 4u + 20 + 12);
    EXPECT_EQ(all[0], std::byte{35});
    EXPECT_EQ(all[6], std::byte{4}) << "it has a cache";
    const auto wide = data(decode(unit(), cdb({0x5a, 0, 0x08, 0, 0, 0, 0, 0, 255})));
    EXPECT_EQ(wide.size(), 8u + 20);
    EXPECT_EQ(big_endian<std::uint16_t>(wide, 0), 26u);
    const auto changeable = data(decode(unit(), cdb({0x1a, 0, 0x48, 0, 255})));
    EXPECT_EQ(changeable[6], std::byte{0});
    Unit through = unit();
    through.disk.write_cache = false;
    EXPECT_EQ(data(decode(through, cdb({0x1a, 0, 8, 0, 255})))[6], std::byte{0});
    EXPECT_EQ(refused(decode(unit(), cdb({0x1a, 0, 0xc8, 0, 255}))), saving_not_supported);
    EXPECT_EQ(refused(decode(unit(), cdb({0x1a, 0, 0x1c, 0, 255}))), invalid_field_in_cdb);
    EXPECT_EQ(refused(decode(unit(), cdb({0x1a, 0, 0x08, 1, 255}))), invalid_field_in_cdb);
}

TEST(ScsiCommand, ReportLunsAndSense)
{
    const auto luns = data(decode(unit(), cdb({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16})));
    EXPECT_EQ(luns.size(), 16u);
    EXPECT_EQ(big_endian<std::uint32_t>(luns, 0), 8u);
    EXPECT_EQ(refused(decode(unit(), cdb({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15}))), invalid_field_in_cdb);
    EXPECT_EQ(data(decode(unit(), cdb({0xa0, 0, 1, 0, 0, 0, 0, 0, 1, 0}))).size(), 8u);
    EXPECT_EQ(data(decode(unit(), cdb({0x03, 0, 0, 0, 255}))).size(), 18u);
    const auto other = data(decode_missing(cdb({0x03, 1, 0, 0, 255})));
    EXPECT_EQ(other, (std::vector{std::byte{0x72}, std::byte{5}, std::byte{0x25}, std::byte{0},
                                  std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0}}));
}

TEST(ScsiCommand, UnitsThatAreNotThere)
{
    EXPECT_EQ(data(decode_missing(cdb({0x12, 0, 0, 0, 255})))[0], std::byte{0x7f});
    EXPECT_EQ(data(decode_missing(cdb({0x12, 1, 0, 0, 255}))).size(), 5u);
    EXPECT_EQ(refused(decode_missing(cdb({0x12, 1, 0x80, 0, 255}))), invalid_field_in_cdb);
    EXPECT_EQ(refused(decode_missing(cdb({0x00}))), unit_not_supported);
    EXPECT_EQ(refused(decode_missing(cdb({0x28}))), unit_not_supported);
}

TEST(ScsiCommand, WriteSame)
{
    const auto same = [](const Command& command) { return std::get<WriteSame>(command); };
    const Unit disk = unit(1 << 20);
    const WriteSame first = same(decode(disk, cdb({0x41, 0, 0, 0, 1, 0, 0, 0, 2})));
    EXPECT_EQ(first.offset, 256u * 512);
    EXPECT_EQ(first.length, 2u * 512);
    EXPECT_TRUE(first.has_block);
    EXPECT_FALSE(first.unmap);
    const WriteSame second =
        same(decode(disk, cdb({0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3})));
    EXPECT_FALSE(second.has_block);
    EXPECT_TRUE(second.unmap);
    EXPECT_TRUE(same(decode(disk, cdb({0x41, 1, 0, 0, 1, 0, 0, 0, 2}))).has_block)
        << "the bit means that in the long form only";
    const auto long_form = [&](unsigned flags, unsigned count_high, unsigned count_low) {
        return decode(disk, cdb({0x93, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, count_high, 0, count_low}));
    };
    EXPECT_EQ(refused(long_form(0, 0, 0)), invalid_field_in_cdb) << "all to the end";
    EXPECT_EQ(same(long_form(0, 2, 0)).length, most_same_bytes);
    EXPECT_EQ(refused(long_form(0, 2, 1)), invalid_field_in_cdb) << "more than the limit";
    EXPECT_EQ(refused(long_form(0x10, 0, 1)), invalid_field_in_cdb) << "anchor";
    EXPECT_EQ(refused(decode(unit(10), cdb({0x41, 0, 0, 0, 0, 9, 0, 0, 2}))), block_out_of_range);
}

struct UnmapList {
    std::vector<std::byte> bytes = std::vector<std::byte>(8);
    void add(std::uint64_t block, std::uint32_t count)
    {
        bytes.resize(bytes.size() + 16);
        put_big_endian(bytes, bytes.size() - 16, block);
        put_big_endian(bytes, bytes.size() - 8, count);
        put_big_endian(bytes, 0, static_cast<std::uint16_t>(bytes.size() - 2));
        put_big_endian(bytes, 2, static_cast<std::uint16_t>(bytes.size() - 8));
    }
};

TEST(ScsiCommand, Unmap)
{
    EXPECT_EQ(std::get<Unmap>(decode(unit(), cdb({0x42, 0, 0, 0, 0, 0, 0, 1, 2}))).list_size, 258u);
    EXPECT_EQ(refused(decode(unit(), cdb({0x42}))), no_sense) << "no list, nothing to do";
    EXPECT_EQ(refused(decode(unit(), cdb({0x42, 0, 0, 0, 0, 0, 0, 0, 7}))),
              parameter_list_length_error);
    EXPECT_EQ(refused(decode(unit(), cdb({0x42, 1, 0, 0, 0, 0, 0, 0, 24}))), invalid_field_in_cdb);
    Unit fixed = unit();
    fixed.disk.discard = false;
    EXPECT_EQ(refused(decode(fixed, cdb({0x42, 0, 0, 0, 0, 0, 0, 0, 24}))), invalid_opcode);

    UnmapList list;
    list.add(10, 5);
    list.add(20, 0);
    list.add(999, 1);
    Ranges ranges = unmap_ranges(unit(), list.bytes);
    EXPECT_EQ(ranges.sense, no_sense);
    ASSERT_EQ(ranges.list.size(), 2u);
    EXPECT_EQ(ranges.list[0].offset, 5120u);
    EXPECT_EQ(ranges.list[1].length, 512u);
    EXPECT_EQ(unmap_ranges(unit(), std::span{list.bytes}.first(30)).list.size(), 1u)
        << "what is torn is not there";
    put_big_endian(list.bytes, 2, std::uint16_t{0xffff});
    EXPECT_EQ(unmap_ranges(unit(), list.bytes).list.size(), 2u) << "more than came";
    put_big_endian(list.bytes, 2, std::uint16_t{16});
    EXPECT_EQ(unmap_ranges(unit(), list.bytes).list.size(), 1u) << "less than came";

    list.add(~std::uint64_t{0}, 2);
    EXPECT_EQ(unmap_ranges(unit(), list.bytes).sense, block_out_of_range);
    UnmapList many;
    for (unsigned i = 0; i <= most_unmap_ranges; ++i) many.add(i, 1);
    EXPECT_EQ(unmap_ranges(unit(), many.bytes).sense, invalid_field_in_parameters);
    UnmapList much;
    much.add(0, 1 << 20);
    much.add(0, 1 << 20);
    much.add(0, 1);
    EXPECT_EQ(unmap_ranges(unit(1 << 24), much.bytes).sense, invalid_field_in_parameters);
}

TEST(ScsiCommand, AnyBytesGiveSomethingInsideTheDisk)
{
    std::mt19937 random{7};
    for (int i = 0; i < 200'000; ++i) {
        Cdb bytes{};
        for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random() % 3 == 0 ? random() : 0);
        const Unit disk = unit(random() % 2000);
        const Command command = decode(disk, bytes);
        if (const auto* transfer = std::get_if<Transfer>(&command)) {
            ASSERT_NE(transfer->length, 0u);
            ASSERT_LE(transfer->offset + transfer->length, disk.disk.size);
        } else if (const auto* same = std::get_if<WriteSame>(&command)) {
            ASSERT_NE(same->length, 0u);
            ASSERT_LE(same->offset + same->length, disk.disk.size);
        }
        static_cast<void>(decode_missing(bytes));
    }
}

}  // namespace
}  // namespace doppel::devices::virtio::scsi
