#include "devices/virtio/vhost_user/shadow_ring.h"

#include <atomic>
#include <cstring>

#include "base/assert.h"
#include "devices/virtio/queue/descriptor.h"

namespace doppel::devices::virtio {

namespace {

constexpr std::size_t flags_at = 0, index_at = 2, ring_at = 4;

}  // namespace

ShadowRing::ShadowRing(std::span<std::byte, bytes> memory) : memory_(memory)
{
    static_assert(size * sizeof(SplitDescriptor) <= available_at - descriptors_at);
    static_assert(ring_at + 2 * size + 2 <= used_at - available_at);
    static_assert(ring_at + size * sizeof(SplitUsed) + 2 <= bytes - used_at);
    for (std::uint16_t i = 0; i < size; ++i) slots_[i].next = static_cast<std::uint16_t>(i + 1);
}

// SAFETY: the offsets used here are inside and aligned, as the assertions above say.
template <typename T>
std::atomic_ref<T> ShadowRing::word(std::size_t offset) const
{
    return std::atomic_ref<T>{*reinterpret_cast<T*>(memory_.data() + offset)};
}

std::uint16_t ShadowRing::add(const Chain& chain)
{
    ASSERT(has_room(chain));
    const std::size_t count = spans(chain);
    const std::uint16_t head = free_;
    std::uint16_t index = head;
    std::size_t done = 0;
    const auto put = [&](const DmaSpan& span, std::uint16_t flags) {
        index = free_;
        free_ = slots_[index].next;
        const bool more = ++done < count;
        const SplitDescriptor descriptor{
            span.at.value, static_cast<std::uint32_t>(span.bytes.size()),
            static_cast<std::uint16_t>(flags | (more ? VIRTQ_DESC_F_NEXT : 0)),
            more ? free_ : std::uint16_t{0}};
        std::memcpy(memory_.data() + descriptors_at + index * sizeof descriptor, &descriptor,
                    sizeof descriptor);
    };
    for (const DmaSpan& span : chain.readable()) put(span, 0);
    for (const DmaSpan& span : chain.writable()) put(span, VIRTQ_DESC_F_WRITE);
    free_count_ -= static_cast<unsigned>(count);
    slots_[head].count = static_cast<std::uint16_t>(count);
    slots_[head].writable = chain.writable_size();
    ++in_flight_;

    const std::size_t at = available_at + ring_at + std::size_t{2} * (next_available_ % size);
    word<std::uint16_t>(at).store(head, std::memory_order_relaxed);
    ++next_available_;
    return head;
}

bool ShadowRing::publish()
{
    word<std::uint16_t>(available_at + index_at).store(next_available_, std::memory_order_release);
    // The back end says that it wants to be told and then looks once more; here it is the reverse.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto flags = word<std::uint16_t>(used_at + flags_at).load(std::memory_order_relaxed);
    return (flags & VIRTQ_USED_F_NO_NOTIFY) == 0;
}

std::optional<ShadowRing::Used> ShadowRing::take()
{
    const auto fail = [this](const char* why) {
        problem_ = why;
        return std::nullopt;
    };
    if (problem_ != nullptr) return std::nullopt;
    const auto index = word<std::uint16_t>(used_at + index_at).load(std::memory_order_acquire);
    if (index == next_used_) return std::nullopt;
    if (static_cast<std::uint16_t>(index - next_used_) > in_flight_) {
        return fail("it finished more requests than there are");
    }
    const std::size_t at = used_at + ring_at + sizeof(SplitUsed) * (next_used_ % size);
    const auto id = word<std::uint32_t>(at).load(std::memory_order_relaxed);
    const auto written = word<std::uint32_t>(at + 4).load(std::memory_order_relaxed);
    if (id >= size || slots_[id].count == 0) {
        return fail("it finished a request that there is none of");
    }
    Slot& head = slots_[id];
    if (written > head.writable) return fail("it wrote more than there is room for");

    // The chain's links are still those that add() followed.
    std::uint16_t last = static_cast<std::uint16_t>(id);
    for (unsigned i = 1; i < head.count; ++i) last = slots_[last].next;
    slots_[last].next = free_;
    free_ = static_cast<std::uint16_t>(id);
    free_count_ += head.count;
    head.count = 0;
    --in_flight_;
    ++next_used_;
    return Used{static_cast<std::uint16_t>(id), written};
}

}  // namespace doppel::devices::virtio
