#include "devices/virtio/queue/ring.h"

#include "devices/virtio/queue/packed_ring.h"
#include "devices/virtio/queue/split_ring.h"

namespace doppel::devices::virtio {

base::Result<std::unique_ptr<Ring>> create_ring(const Dma& dma, const RingAddress& address,
                                                Features features, const RingState& state)
{
    const bool packed = (features & VIRTIO_F_RING_PACKED) != 0;
    return packed ? PackedRing::create(dma, address, features, state)
                  : SplitRing::create(dma, address, features, state);
}

}  // namespace doppel::devices::virtio
