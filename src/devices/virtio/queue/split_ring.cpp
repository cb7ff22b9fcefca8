#include "devices/virtio/queue/split_ring.h"

#include <bit>

#include "base/bytes.h"

namespace doppel::devices::virtio {

namespace {

// Offsets in the driver area and in the device area.
constexpr std::size_t flags_at = 0, index_at = 2, ring_at = 4;

SplitDescriptor descriptor_at(const DmaSpan& table, std::size_t index)
{
    return base::load_le<SplitDescriptor>(table.bytes.data() + index * sizeof(SplitDescriptor));
}

}  // namespace

base::Result<std::unique_ptr<Ring>> SplitRing::create(const Dma& dma, const RingAddress& address,
                                                      Features features, const RingState& state)
{
    if (!std::has_single_bit(address.size)) {
        return base::io_error("The size of a split ring is no power of two");
    }
    if (address.descriptors % 16 != 0 || address.driver % 2 != 0 || address.device % 4 != 0) {
        return base::io_error("A ring is not aligned");
    }
    std::unique_ptr<SplitRing> ring{new SplitRing{dma, address.size, state, features}};
    const std::uint64_t size = address.size;
    ring->descriptors_ =
        dma.whole(address.descriptors, size * sizeof(SplitDescriptor), Access::read);
    ring->driver_ = dma.whole(address.driver, ring_at + size * 2 + 2, Access::read);
    ring->device_ =
        dma.whole(address.device, ring_at + size * sizeof(SplitUsed) + 2, Access::write);
    if (ring->descriptors_.bytes.empty() || ring->driver_.bytes.empty() ||
        ring->device_.bytes.empty()) {
        return base::io_error("A ring is not in memory");
    }
    return std::unique_ptr<Ring>{std::move(ring)};
}

void SplitRing::ask_for_rings(bool wanted)
{
    if (event_index_) {
        // While none is wanted the old value stays, which the driver's index has passed.
        if (wanted) {
            store<std::uint16_t>(device_, ring_at + size_ * sizeof(SplitUsed),
                                 state_.next_available);
        }
    } else if (wanted != rings_wanted_) {
        store<std::uint16_t>(device_, flags_at, wanted ? 0 : VIRTQ_USED_F_NO_NOTIFY);
    }
    rings_wanted_ = wanted;
}

bool SplitRing::available()
{
    if (problem() != nullptr) return false;
    std::uint16_t index = load<std::uint16_t>(driver_, index_at, std::memory_order_acquire);
    if (index == state_.next_available) {
        ask_for_rings(true);
        // The driver stores its index and then looks whether to ring; here it is the reverse.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        index = load<std::uint16_t>(driver_, index_at, std::memory_order_acquire);
        if (index == state_.next_available) return false;
    }
    if (static_cast<std::uint16_t>(index - state_.next_available) > size_) {
        return fail("the available index jumped");
    }
    return true;
}

bool SplitRing::pop(Chain& chain)
{
    if (!available()) return false;
    const std::size_t slot = state_.next_available % size_;
    const auto head = load<std::uint16_t>(driver_, ring_at + 2 * slot);
    if (head >= size_) return fail("an available descriptor is not in the table");
    if (taken_[head]) return fail("a descriptor was made available twice");
    if (!walk(head, chain)) return false;
    if (rings_wanted_ != false) ask_for_rings(false);
    taken_[head] = true;
    ++in_flight_;
    ++state_.next_available;
    return true;
}

bool SplitRing::add(const SplitDescriptor& descriptor, Chain& chain)
{
    const Access access =
        (descriptor.flags & VIRTQ_DESC_F_WRITE) != 0 ? Access::write : Access::read;
    const char* wrong = chain.add(dma_, descriptor.address, descriptor.length, access);
    return wrong == nullptr || fail(wrong);
}

bool SplitRing::walk(std::uint16_t head, Chain& chain)
{
    chain.begin();
    chain.finish(head, 0);
    std::uint16_t index = head;
    for (unsigned count = 0; count < size_; ++count) {
        const SplitDescriptor descriptor = descriptor_at(descriptors_, index);
        const bool more = (descriptor.flags & VIRTQ_DESC_F_NEXT) != 0;
        if ((descriptor.flags & VIRTQ_DESC_F_INDIRECT) != 0) {
            if (more) return fail("a descriptor goes on behind an indirect table");
            return walk_indirect(descriptor, chain);
        }
        if (!add(descriptor, chain)) return false;
        if (!more) return true;
        index = descriptor.next;
        if (index >= size_) return fail("a chain leaves the table");
    }
    return fail("a chain is a loop");
}

bool SplitRing::walk_indirect(const SplitDescriptor& descriptor, Chain& chain)
{
    if (!indirect_) return fail("an indirect table was not negotiated");
    const std::size_t count = descriptor.length / sizeof(SplitDescriptor);
    if (count == 0 || descriptor.length % sizeof(SplitDescriptor) != 0) {
        return fail("an indirect table has no whole descriptors");
    }
    const DmaSpan table = dma_.whole(descriptor.address, descriptor.length, Access::read);
    if (table.bytes.empty()) return fail("an indirect table is not in memory");
    std::size_t index = 0;
    // Chain::add() bounds it as well.
    for (std::size_t seen = 0; seen < count; ++seen) {
        const SplitDescriptor entry = descriptor_at(table, index);
        if ((entry.flags & VIRTQ_DESC_F_INDIRECT) != 0) return fail("an indirect table is nested");
        if (!add(entry, chain)) return false;
        if ((entry.flags & VIRTQ_DESC_F_NEXT) == 0) return true;
        index = entry.next;
        if (index >= count) return fail("a chain leaves its indirect table");
    }
    return fail("an indirect table is a loop");
}

void SplitRing::unpop(const Chain& chain)
{
    ASSERT(taken_[chain.id()]);
    taken_[chain.id()] = false;
    --in_flight_;
    --state_.next_available;
}

void SplitRing::fill(const Chain& chain, std::uint32_t written)
{
    ASSERT(taken_[chain.id()]);
    taken_[chain.id()] = false;
    --in_flight_;
    const std::size_t at = ring_at + state_.next_used % size_ * sizeof(SplitUsed);
    store<std::uint32_t>(device_, at, chain.id());
    store<std::uint32_t>(device_, at + 4, written);
    ++state_.next_used;
    count_used(1);
}

void SplitRing::publish()
{
    store<std::uint16_t>(device_, index_at, state_.next_used, std::memory_order_release);
}

bool SplitRing::wants_interrupt()
{
    const std::uint16_t moved = state_.unsignalled;
    if (moved == 0) return false;
    state_.unsignalled = 0;
    // What was pushed is seen before the driver's wish is looked at.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (event_index_) {
        const auto event = load<std::uint16_t>(driver_, ring_at + std::size_t{2} * size_);
        return passed(event, state_.next_used, moved);
    }
    return (load<std::uint16_t>(driver_, flags_at) & VIRTQ_AVAIL_F_NO_INTERRUPT) == 0;
}

}  // namespace doppel::devices::virtio
