// What lies in ring memory, byte for byte. Virtio 1.2, sections 2.7 (split) and 2.8 (packed).
#pragma once

#include <cstdint>

namespace doppel::devices::virtio {

inline constexpr std::uint16_t VIRTQ_DESC_F_NEXT = 1, VIRTQ_DESC_F_WRITE = 2,
                               VIRTQ_DESC_F_INDIRECT = 4;
inline constexpr std::uint16_t VIRTQ_AVAIL_F_NO_INTERRUPT = 1, VIRTQ_USED_F_NO_NOTIFY = 1;
inline constexpr std::uint16_t VIRTQ_DESC_F_AVAIL = 1 << 7, VIRTQ_DESC_F_USED = 1 << 15;
inline constexpr std::uint16_t RING_EVENT_FLAGS_ENABLE = 0, RING_EVENT_FLAGS_DISABLE = 1,
                               RING_EVENT_FLAGS_DESC = 2;

// A split ring's descriptor. Its ring of available buffers is u16 flags, u16 index, u16 heads[],
// u16 used_event; of used buffers u16 flags, u16 index, SplitUsed[], u16 avail_event.
struct SplitDescriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
};
static_assert(sizeof(SplitDescriptor) == 16);

struct SplitUsed {
    std::uint32_t id;
    std::uint32_t length;
};
static_assert(sizeof(SplitUsed) == 8);

// A packed ring's descriptor; an indirect table of a packed ring has them, too.
struct PackedDescriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t id;
    std::uint16_t flags;
};
static_assert(sizeof(PackedDescriptor) == 16);

}  // namespace doppel::devices::virtio
