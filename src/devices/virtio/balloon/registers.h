// What a balloon and its driver exchange. Virtio 1.2, section 5.5.
#pragma once

#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

inline constexpr Features VIRTIO_BALLOON_F_STATS_VQ = 1 << 1,
                          VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 1 << 2,
                          VIRTIO_BALLOON_F_PAGE_REPORTING = 1 << 5;

// Pages of 4 KiB.
struct BalloonConfig {
    std::uint32_t num_pages;  // wanted by the host
    std::uint32_t actual;     // given by the guest
    std::uint32_t free_page_hint_cmd_id, poison_val;
};
static_assert(sizeof(BalloonConfig) == 16);

#pragma pack(push, 1)
struct BalloonStatistic {
    std::uint16_t tag;
    std::uint64_t value;
};
#pragma pack(pop)
static_assert(sizeof(BalloonStatistic) == 10);

}  // namespace doppel::devices::virtio
