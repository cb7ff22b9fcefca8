// Virtio 1.2, section 2.7: descriptors in a table, a ring of available and a ring of used ones.
#pragma once

#include <optional>
#include <vector>

#include "devices/virtio/queue/descriptor.h"
#include "devices/virtio/queue/ring.h"

namespace doppel::devices::virtio {

class SplitRing final : public Ring {
public:
    static base::Result<std::unique_ptr<Ring>> create(const Dma& dma, const RingAddress& address,
                                                      Features features, const RingState& state);

    [[nodiscard]] bool pop(Chain& chain) override;
    void unpop(const Chain& chain) override;
    void fill(const Chain& chain, std::uint32_t written) override;
    void publish() override;
    [[nodiscard]] bool wants_interrupt() override;

private:
    SplitRing(const Dma& dma, std::uint16_t size, const RingState& state, Features features)
        : Ring(dma, size, state, features), taken_(size)
    {
    }
    [[nodiscard]] bool available();
    bool walk(std::uint16_t head, Chain& chain);
    bool walk_indirect(const SplitDescriptor& descriptor, Chain& chain);
    bool add(const SplitDescriptor& descriptor, Chain& chain);
    void ask_for_rings(bool wanted);

    DmaSpan descriptors_, driver_, device_;
    std::vector<bool> taken_;  // by head: popped and not pushed
    std::optional<bool> rings_wanted_;  // as the driver sees it; a saved state left either
};

}  // namespace doppel::devices::virtio
