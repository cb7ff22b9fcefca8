// Virtio 1.2, section 2.8: one ring of descriptors that driver and device write in turns, and two
// bits in each that say whose it is. They change meaning with each turn around the ring.
#pragma once

#include <bitset>
#include <optional>

#include "devices/virtio/queue/descriptor.h"
#include "devices/virtio/queue/ring.h"

namespace doppel::devices::virtio {

class PackedRing final : public Ring {
public:
    static base::Result<std::unique_ptr<Ring>> create(const Dma& dma, const RingAddress& address,
                                                      Features features, const RingState& state);

    [[nodiscard]] bool pop(Chain& chain) override;
    void unpop(const Chain& chain) override;
    void fill(const Chain& chain, std::uint32_t written) override;
    void publish() override;
    [[nodiscard]] bool wants_interrupt() override;

private:
    using Ring::Ring;
    [[nodiscard]] std::uint16_t flags_at(std::uint16_t position) const;
    [[nodiscard]] bool next_is_available() const;
    [[nodiscard]] bool available();
    bool walk(Chain& chain);
    bool walk_indirect(const PackedDescriptor& descriptor, Chain& chain);
    bool add(const PackedDescriptor& descriptor, Chain& chain);
    void ask_for_rings(bool wanted);
    // `position` and its wrap counter, so many descriptors on.
    void advance(std::uint16_t& position, std::uint8_t& wrap, std::uint16_t by) const;

    DmaSpan descriptors_, driver_, device_;
    std::bitset<0x10000> taken_;   // by buffer id, which may be any
    unsigned slots_in_flight_ = 0;
    std::optional<bool> rings_wanted_;  // as the driver sees it; a saved state left either
    // The first descriptor that was filled since publish(), whose flags are yet to be written.
    struct Filled {
        std::size_t at;
        std::uint16_t flags;
    };
    std::optional<Filled> first_filled_;
};

}  // namespace doppel::devices::virtio
