// A disk's commands, SPC-4 and SBC-3: what bytes mean and what is answered to them. Pure: what is
// left to do is a value, and whoever owns the disk does it.
//
//   CDB ─▶ decode() ─▶ Answer      data or a sense, at once
//                   ─▶ Transfer    blocks to read or write
//                   ─▶ Flush
//                   ─▶ Unmap       a list of ranges comes with it: unmap_ranges()
//                   ─▶ WriteSame   a block comes with it, or none
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "backends/block/block.h"
#include "base/result.h"
#include "devices/virtio/scsi/scsi_numbers.h"

namespace doppel::devices::virtio::scsi {

// Of one command: longer ones would keep the others waiting, or need too many buffers.
inline constexpr std::uint64_t most_same_bytes = 64 << 20;
inline constexpr std::uint64_t most_unmap_bytes = std::uint64_t{1} << 30;
inline constexpr unsigned most_unmap_ranges = 64;

using Cdb = std::array<std::uint8_t, 16>;  // shorter ones with zeros behind them

struct Unit {
    backends::BlockProperties disk;
    std::string serial;  // printable ASCII, 20 at most; unique among the units

    [[nodiscard]] std::uint64_t blocks() const { return disk.size / disk.logical_block_size; }
};

struct Answer {
    Sense sense;  // no_sense: it went well
    std::vector<std::byte> data;
    Answer(Sense what) : sense(what) {}
    Answer(std::vector<std::byte> what) : data(std::move(what)) {}
};
// In bytes, inside the disk, whole blocks.
struct Transfer {
    bool write = false;
    bool fua = false;
    std::uint64_t offset = 0, length = 0;
};
struct Flush {};
struct Unmap {
    std::uint32_t list_size = 0;  // bytes that the command brings
};
struct WriteSame {
    std::uint64_t offset = 0, length = 0;  // as in Transfer
    bool unmap = false;
    bool has_block = true;  // else it is all zeros
};
using Command = std::variant<Answer, Transfer, Flush, Unmap, WriteSame>;

// For a unit that is there.
Command decode(const Unit& unit, const Cdb& cdb);
// For one that is not, at a target that is.
Answer decode_missing(const Cdb& cdb);

struct Range {
    std::uint64_t offset, length;  // bytes, inside the disk
};
// What the list of an UNMAP says.
struct Ranges {
    Sense sense;
    std::vector<Range> list;
};
Ranges unmap_ranges(const Unit& unit, std::span<const std::byte> list);

// What a backend's answer is for the driver.
Sense sense_of(backends::Status status, bool writes);

// Fixed format, SPC-4 section 4.5.3.
inline constexpr std::size_t sense_size = 18;
std::array<std::byte, sense_size> sense_bytes(const Sense& sense);

}  // namespace doppel::devices::virtio::scsi
