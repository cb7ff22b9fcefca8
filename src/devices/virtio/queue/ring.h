// A virtqueue's memory, which the guest shares and may fill with anything. Every chain is bounded,
// checked and handed out once; at the first thing that cannot be the ring is broken for good, and
// gives nothing any more.
//
//   driver ── available ──▶ pop() ──▶ device ──▶ push() ── used ──▶ driver
//
// While there is something to pop the driver is asked not to ring; when pop() finds nothing it asks
// for a ring, and looks once more.
//
// Threads: the device's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "devices/virtio/queue/chain.h"
#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

// Where a queue is. Sections 2.7 and 2.8: descriptor area, driver area, device area.
struct RingAddress {
    std::uint16_t size = 0;  // descriptors
    std::uint64_t descriptors = 0, driver = 0, device = 0;
};

// What a ring knows that is not in guest memory.
struct RingState {
    std::uint16_t next_available = 0;  // split: counts on; packed: a position
    std::uint16_t next_used = 0;
    std::uint16_t unsignalled = 0;  // used since wants_interrupt() was last asked; saturates
    std::uint8_t available_wrap = 1, used_wrap = 1;  // packed: 0 or 1
};

class Ring {
public:
    virtual ~Ring() = default;

    // False: nothing is available, or the ring is broken.
    [[nodiscard]] virtual bool pop(Chain& chain) = 0;
    // As if the chain that was popped last had not been. Several: the last one first.
    virtual void unpop(const Chain& chain) = 0;
    // Gives it back with so many bytes written. Each popped chain once, in any order.
    void push(const Chain& chain, std::uint32_t written)
    {
        fill(chain, written);
        publish();
    }
    // The same in two steps: the driver sees nothing of what was filled before publish(), and then
    // all at once. For buffers that belong together.
    virtual void fill(const Chain& chain, std::uint32_t written) = 0;
    virtual void publish() = 0;
    // Does the driver want an interrupt for what was pushed since this was last asked?
    [[nodiscard]] virtual bool wants_interrupt() = 0;

    // Chains that were popped and not pushed.
    [[nodiscard]] unsigned in_flight() const { return in_flight_; }
    // Why it is broken, or nullptr.
    [[nodiscard]] const char* problem() const { return problem_; }
    [[nodiscard]] std::uint16_t size() const { return size_; }

    // With nothing in flight, and all published.
    [[nodiscard]] const RingState& state() const { return state_; }

protected:
    Ring(const Dma& dma, std::uint16_t size, const RingState& state, Features features)
        : dma_(dma),
          size_(size),
          state_(state),
          indirect_((features & VIRTIO_F_INDIRECT_DESC) != 0),
          event_index_((features & VIRTIO_F_EVENT_IDX) != 0)
    {
    }
    bool fail(const char* why)
    {
        if (problem_ == nullptr) problem_ = why;
        return false;
    }
    void count_used(unsigned slots)
    {
        const unsigned sum = state_.unsignalled + slots;
        state_.unsignalled = static_cast<std::uint16_t>(sum > 0xffff ? 0xffff : sum);
    }
    // Section 2.7.10: did the index pass `event` with the last `moved` steps to `now`?
    static bool passed(std::uint16_t event, std::uint16_t now, std::uint16_t moved)
    {
        return static_cast<std::uint16_t>(now - event - 1) < moved;
    }
    // Ring memory, word by word: SAFETY: bounds and alignment were checked by create().
    template <typename T>
    static T load(const DmaSpan& area, std::size_t offset,
                  std::memory_order order = std::memory_order_relaxed)
    {
        return word<T>(area, offset).load(order);
    }
    template <typename T>
    void store(const DmaSpan& area, std::size_t offset, T value,
               std::memory_order order = std::memory_order_relaxed) const
    {
        word<T>(area, offset).store(value, order);
        dma_.written(area.at + offset, sizeof value);
    }

    const Dma& dma_;
    const std::uint16_t size_;
    RingState state_;
    unsigned in_flight_ = 0;
    const bool indirect_, event_index_;

private:
    template <typename T>
    static std::atomic_ref<T> word(const DmaSpan& area, std::size_t offset)
    {
        return std::atomic_ref<T>{*reinterpret_cast<T*>(area.bytes.data() + offset)};
    }

    const char* problem_ = nullptr;
};

// By VIRTIO_F_RING_PACKED. Errors: the size, an alignment, or an area that is not memory;
// a state that cannot be.
base::Result<std::unique_ptr<Ring>> create_ring(const Dma& dma, const RingAddress& address,
                                                Features features, const RingState& state = {});

}  // namespace doppel::devices::virtio
