// What a block device and its driver exchange. Virtio 1.2, sections 5.2.3 to 5.2.6.
#pragma once

#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

inline constexpr Features VIRTIO_BLK_F_SEG_MAX = 1 << 2, VIRTIO_BLK_F_RO = 1 << 5,
                          VIRTIO_BLK_F_BLK_SIZE = 1 << 6, VIRTIO_BLK_F_FLUSH = 1 << 9,
                          VIRTIO_BLK_F_TOPOLOGY = 1 << 10, VIRTIO_BLK_F_CONFIG_WCE = 1 << 11,
                          VIRTIO_BLK_F_MQ = 1 << 12, VIRTIO_BLK_F_DISCARD = 1 << 13,
                          VIRTIO_BLK_F_WRITE_ZEROES = 1 << 14;

enum class BlockType : std::uint32_t {
    VIRTIO_BLK_T_IN = 0,
    VIRTIO_BLK_T_OUT = 1,
    VIRTIO_BLK_T_FLUSH = 4,
    VIRTIO_BLK_T_GET_ID = 8,
    VIRTIO_BLK_T_DISCARD = 11,
    VIRTIO_BLK_T_WRITE_ZEROES = 13,
};

enum class BlockStatus : std::uint8_t {
    VIRTIO_BLK_S_OK = 0,
    VIRTIO_BLK_S_IOERR = 1,
    VIRTIO_BLK_S_UNSUPP = 2,
    pending = 0xff,  // ours: not decided yet
};

// In front of every request; sectors have 512 bytes always.
struct BlockHeader {
    std::uint32_t type;
    std::uint32_t reserved;
    std::uint64_t sector;
};
static_assert(sizeof(BlockHeader) == 16);

// The data of VIRTIO_BLK_T_DISCARD and VIRTIO_BLK_T_WRITE_ZEROES.
struct BlockRange {
    std::uint64_t sector;
    std::uint32_t sectors;
    std::uint32_t flags;  // bit 0: may be unmapped
};
static_assert(sizeof(BlockRange) == 16);

#pragma pack(push, 1)
struct BlockConfig {
    std::uint64_t capacity;
    std::uint32_t size_max, seg_max;
    std::uint16_t cylinders;
    std::uint8_t heads, sectors;
    std::uint32_t blk_size;
    std::uint8_t physical_block_exp, alignment_offset;
    std::uint16_t min_io_size;
    std::uint32_t opt_io_size;
    std::uint8_t writeback, unused0;
    std::uint16_t num_queues;
    std::uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    std::uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    std::uint8_t write_zeroes_may_unmap, unused1[3];
};
#pragma pack(pop)
static_assert(sizeof(BlockConfig) == 60);

}  // namespace doppel::devices::virtio
