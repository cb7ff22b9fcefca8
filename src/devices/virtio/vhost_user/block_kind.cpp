#include "devices/virtio/vhost_user/block_kind.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace doppel::devices::virtio {

namespace {

constexpr Features VIRTIO_BLK_F_SIZE_MAX = 1 << 1, VIRTIO_BLK_F_GEOMETRY = 1 << 4;

}  // namespace

VhostUserBlock::VhostUserBlock(unsigned queues)
{
    ASSERT(queues >= 1 && queues <= most_queues);
    queue_sizes_.fill(queue_size);
    identity_ = {DeviceId::block, "vhost_user_block", 0x010000,
                 std::span{queue_sizes_}.first(queues)};
}

// Not VIRTIO_BLK_F_CONFIG_WCE: what the guest chose would have to be told again to each back end
// that comes back.
Features VhostUserBlock::passed_on() const
{
    const Features queues = identity_.queue_sizes.size() > 1 ? VIRTIO_BLK_F_MQ : 0;
    return queues | VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_GEOMETRY |
           VIRTIO_BLK_F_RO | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_TOPOLOGY |
           VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
}

void VhostUserBlock::take_config(std::span<const std::byte> config)
{
    ASSERT(config.size() == sizeof config_);
    std::memcpy(&config_, config.data(), sizeof config_);
    config_.num_queues = static_cast<std::uint16_t>(identity_.queue_sizes.size());
    // Header and status take a descriptor each.
    config_.seg_max = std::clamp<std::uint32_t>(config_.seg_max, 1, queue_size - 2);
}

std::optional<std::uint32_t> VhostUserBlock::answer(const Dma& dma, const Chain& chain)
{
    const bool whole = chain.readable_size() >= sizeof(BlockHeader) && chain.writable_size() != 0;
    return whole ? std::nullopt : std::optional{refuse(dma, chain)};
}

std::uint32_t VhostUserBlock::refuse(const Dma& dma, const Chain& chain)
{
    if (chain.writable_size() == 0) return 0;
    const BlockStatus status = BlockStatus::VIRTIO_BLK_S_IOERR;
    ChainWriter{dma, chain, chain.writable_size() - 1}.write(
        std::as_bytes(std::span{&status, 1}));
    return 1;
}

}  // namespace doppel::devices::virtio
