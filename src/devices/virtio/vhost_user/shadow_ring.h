// The driver's side of a split ring (virtio 1.2, section 2.7) towards a vhost-user back end: chains of
// the guest's rings, checked and in flight, as one more ring whose memory is ours.
//
//   guest's ring ── pop() ──▶ add() ── available ──▶ back end
//   guest's ring ◀── push() ── take() ◀── used ───── back end
//
// The back end shares that memory and may write anything there. What is in flight is kept here
// and not there, and what comes back is checked against it.
//
// Threads: the device's.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "devices/virtio/queue/chain.h"

namespace doppel::devices::virtio {

class ShadowRing {
public:
    // What back ends have room for, and any chain fits.
    static constexpr std::uint16_t size = 1024;
    static_assert(size >= Chain::most_buffers);
    // Where the parts are in its memory.
    static constexpr std::size_t descriptors_at = 0, available_at = 0x4000, used_at = 0x5000,
                                 bytes = 0x8000;

    // memory: zeros, aligned to a page.
    explicit ShadowRing(std::span<std::byte, bytes> memory);

    // Chains with nothing in them have no place in a ring.
    [[nodiscard]] bool has_room(const Chain& chain) const
    {
        return spans(chain) != 0 && spans(chain) <= free_count_;
    }
    [[nodiscard]] static std::size_t spans(const Chain& chain)
    {
        return chain.readable().size() + chain.writable().size();
    }
    // The head that it will come back with. Seen by the back end after publish().
    std::uint16_t add(const Chain& chain);
    // Does the back end want to be told?
    [[nodiscard]] bool publish();

    struct Used {
        std::uint16_t head;
        std::uint32_t written;  // at most what the chain has room for
    };
    // Nothing: no more, or the back end has broken the ring.
    [[nodiscard]] std::optional<Used> take();
    // What was wrong, or nullptr.
    [[nodiscard]] const char* problem() const { return problem_; }
    [[nodiscard]] unsigned in_flight() const { return in_flight_; }

private:
    struct Slot {
        std::uint16_t next;   // of the chain, or of the free ones
        std::uint16_t count;  // heads: descriptors; 0: not a head in flight
        std::uint32_t writable;
    };
    template <typename T>
    [[nodiscard]] std::atomic_ref<T> word(std::size_t offset) const;

    std::span<std::byte, bytes> memory_;
    std::array<Slot, size> slots_{};
    std::uint16_t free_ = 0;
    unsigned free_count_ = size;
    unsigned in_flight_ = 0;
    std::uint16_t next_available_ = 0, next_used_ = 0;
    const char* problem_ = nullptr;
};

}  // namespace doppel::devices::virtio
