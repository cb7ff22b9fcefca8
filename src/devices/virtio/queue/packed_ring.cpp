#include "devices/virtio/queue/packed_ring.h"

#include "base/bytes.h"

namespace doppel::devices::virtio {

namespace {

// Section 2.8.14, event suppression: u16 position and wrap counter, u16 flags.
constexpr std::size_t event_position_at = 0, event_flags_at = 2, event_size = 4;
constexpr std::size_t length_in = 8, id_in = 12, flags_in = 14;

PackedDescriptor descriptor_at(const DmaSpan& table, std::size_t index)
{
    return base::load_le<PackedDescriptor>(table.bytes.data() + index * sizeof(PackedDescriptor));
}

}  // namespace

base::Result<std::unique_ptr<Ring>> PackedRing::create(const Dma& dma, const RingAddress& address,
                                                       Features features, const RingState& state)
{
    if (address.size == 0 || address.size > queue_size_max) {
        return base::io_error("A packed ring has an impossible size");
    }
    if (state.next_available >= address.size || state.next_used >= address.size ||
        state.available_wrap > 1 || state.used_wrap > 1) {
        return base::io_error("A packed ring's position is not in the ring");
    }
    if (address.descriptors % 16 != 0 || address.driver % 4 != 0 || address.device % 4 != 0) {
        return base::io_error("A ring is not aligned");
    }
    std::unique_ptr<PackedRing> ring{new PackedRing{dma, address.size, state, features}};
    // The device writes used descriptors where it read available ones.
    ring->descriptors_ = dma.whole(
        address.descriptors, std::uint64_t{address.size} * sizeof(PackedDescriptor), Access::write);
    ring->driver_ = dma.whole(address.driver, event_size, Access::read);
    ring->device_ = dma.whole(address.device, event_size, Access::write);
    if (ring->descriptors_.bytes.empty() || ring->driver_.bytes.empty() ||
        ring->device_.bytes.empty()) {
        return base::io_error("A ring is not in memory");
    }
    return std::unique_ptr<Ring>{std::move(ring)};
}

std::uint16_t PackedRing::flags_at(std::uint16_t position) const
{
    return load<std::uint16_t>(descriptors_, position * sizeof(PackedDescriptor) + flags_in,
                               std::memory_order_acquire);
}

bool PackedRing::next_is_available() const
{
    const std::uint16_t flags = flags_at(state_.next_available);
    return ((flags & VIRTQ_DESC_F_AVAIL) != 0) == (state_.available_wrap != 0) &&
           ((flags & VIRTQ_DESC_F_USED) != 0) != (state_.available_wrap != 0);
}

void PackedRing::ask_for_rings(bool wanted)
{
    if (wanted && event_index_) {
        const unsigned wrap = state_.available_wrap != 0 ? 0x8000u : 0u;
        store(device_, event_position_at,
              static_cast<std::uint16_t>(state_.next_available | wrap));
        // The position counts only once the flags say so.
        store<std::uint16_t>(device_, event_flags_at, RING_EVENT_FLAGS_DESC,
                             std::memory_order_release);
    } else if (wanted != rings_wanted_) {
        store<std::uint16_t>(device_, event_flags_at,
                             wanted ? RING_EVENT_FLAGS_ENABLE : RING_EVENT_FLAGS_DISABLE);
    }
    rings_wanted_ = wanted;
}

bool PackedRing::available()
{
    if (problem() != nullptr) return false;
    if (!next_is_available()) {
        ask_for_rings(true);
        // The driver stores the descriptor and then looks whether to ring; here it is the reverse.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!next_is_available()) return false;
    }
    if (slots_in_flight_ == size_) return fail("a descriptor was made available twice");
    return true;
}

void PackedRing::advance(std::uint16_t& position, std::uint8_t& wrap, std::uint16_t by) const
{
    const unsigned sum = unsigned{position} + by;
    if (sum >= size_) wrap ^= 1;
    position = static_cast<std::uint16_t>(sum >= size_ ? sum - size_ : sum);
}

bool PackedRing::pop(Chain& chain)
{
    if (!available() || !walk(chain)) return false;
    if (taken_[chain.id()]) return fail("a buffer was made available twice");
    if (rings_wanted_ != false) ask_for_rings(false);
    taken_[chain.id()] = true;
    ++in_flight_;
    slots_in_flight_ += chain.slots();
    advance(state_.next_available, state_.available_wrap, chain.slots());
    return true;
}

bool PackedRing::add(const PackedDescriptor& descriptor, Chain& chain)
{
    const Access access =
        (descriptor.flags & VIRTQ_DESC_F_WRITE) != 0 ? Access::write : Access::read;
    const char* wrong = chain.add(dma_, descriptor.address, descriptor.length, access);
    return wrong == nullptr || fail(wrong);
}

bool PackedRing::walk(Chain& chain)
{
    chain.begin();
    std::uint16_t position = state_.next_available;
    std::uint8_t wrap = state_.available_wrap;
    // What is in flight lies behind next_available: a chain that is longer would reach it.
    for (std::uint16_t count = 1; slots_in_flight_ + count <= size_; ++count) {
        const PackedDescriptor descriptor = descriptor_at(descriptors_, position);
        const bool more = (descriptor.flags & VIRTQ_DESC_F_NEXT) != 0;
        if ((descriptor.flags & VIRTQ_DESC_F_INDIRECT) != 0) {
            if (more || count != 1) return fail("an indirect table is part of a longer chain");
            chain.finish(descriptor.id, 1);
            return walk_indirect(descriptor, chain);
        }
        if (!add(descriptor, chain)) return false;
        if (!more) {
            chain.finish(descriptor.id, count);
            return true;
        }
        advance(position, wrap, 1);
    }
    return fail("a chain is longer than the ring");
}

bool PackedRing::walk_indirect(const PackedDescriptor& descriptor, Chain& chain)
{
    if (!indirect_) return fail("an indirect table was not negotiated");
    const std::size_t count = descriptor.length / sizeof(PackedDescriptor);
    if (count == 0 || descriptor.length % sizeof(PackedDescriptor) != 0) {
        return fail("an indirect table has no whole descriptors");
    }
    const DmaSpan table = dma_.whole(descriptor.address, descriptor.length, Access::read);
    if (table.bytes.empty()) return fail("an indirect table is not in memory");
    // One after the other; of the flags only VIRTQ_DESC_F_WRITE has a meaning here.
    for (std::size_t index = 0; index < count; ++index) {
        if (!add(descriptor_at(table, index), chain)) return false;
    }
    return true;
}

void PackedRing::unpop(const Chain& chain)
{
    ASSERT(taken_[chain.id()]);
    taken_[chain.id()] = false;
    --in_flight_;
    slots_in_flight_ -= chain.slots();
    if (chain.slots() > state_.next_available) {
        state_.available_wrap ^= 1;
        state_.next_available =
            static_cast<std::uint16_t>(state_.next_available + size_ - chain.slots());
    } else {
        state_.next_available = static_cast<std::uint16_t>(state_.next_available - chain.slots());
    }
}

void PackedRing::fill(const Chain& chain, std::uint32_t written)
{
    ASSERT(taken_[chain.id()]);
    taken_[chain.id()] = false;
    --in_flight_;
    slots_in_flight_ -= chain.slots();
    const std::size_t at = state_.next_used * sizeof(PackedDescriptor);
    store<std::uint32_t>(descriptors_, at + length_in, written);
    store<std::uint16_t>(descriptors_, at + id_in, chain.id());
    unsigned flags = written != 0 ? VIRTQ_DESC_F_WRITE : 0u;
    if (state_.used_wrap != 0) flags |= VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
    // The driver goes no further than the first one whose flags do not say "used".
    if (first_filled_) {
        store(descriptors_, at + flags_in, static_cast<std::uint16_t>(flags),
              std::memory_order_release);
    } else {
        first_filled_ = Filled{at + flags_in, static_cast<std::uint16_t>(flags)};
    }
    advance(state_.next_used, state_.used_wrap, chain.slots());
    count_used(chain.slots());
}

void PackedRing::publish()
{
    if (!first_filled_) return;
    store(descriptors_, first_filled_->at, first_filled_->flags, std::memory_order_release);
    first_filled_.reset();
}

bool PackedRing::wants_interrupt()
{
    const std::uint16_t moved = state_.unsignalled;
    if (moved == 0) return false;
    state_.unsignalled = 0;
    // What was pushed is seen before the driver's wish is looked at.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto flags = load<std::uint16_t>(driver_, event_flags_at, std::memory_order_acquire);
    if (flags == RING_EVENT_FLAGS_DISABLE) return false;
    if (flags != RING_EVENT_FLAGS_DESC || !event_index_ || moved >= size_) return true;
    const auto wish = load<std::uint16_t>(driver_, event_position_at);
    auto event = static_cast<std::uint16_t>(wish & 0x7fff);
    if (((wish & 0x8000) != 0) != (state_.used_wrap != 0)) {
        event = static_cast<std::uint16_t>(event - size_);
    }
    return passed(event, state_.next_used, moved);
}

}  // namespace doppel::devices::virtio
