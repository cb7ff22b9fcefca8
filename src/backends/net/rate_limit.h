// Limits how much passes, in each direction for itself. Frames wait; none are dropped here.
#pragma once

#include <array>
#include <functional>

#include "base/loop_timer.h"
#include "backends/net/net_filter.h"
#include "backends/net/token_bucket.h"

namespace doppel::backends {

struct NetRates {
    // Per second; 0: no limit. Bursts are what may pass at once after idling; 0: a tenth of the
    // limit. Bytes are those of frames, without what Ethernet adds on a wire.
    std::uint64_t bytes = 0, frames = 0;
    std::uint64_t burst_bytes = 0, burst_frames = 0;
    [[nodiscard]] bool any() const { return bytes != 0 || frames != 0; }
};

// Threads: as NetBackend.
class RateLimit final : public NetFilter {
public:
    using Clock = std::function<std::uint64_t()>;  // nanoseconds
    static base::Result<std::unique_ptr<NetBackend>> create(base::EventLoop& loop,
                                                            std::unique_ptr<NetBackend> inner,
                                                            const NetRates& rates,
                                                            Clock clock = base::monotonic_ns);

    Handed send(unsigned queue, Frame& frame) noexcept override;
    void resume(unsigned queue) noexcept override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    struct Direction {
        TokenBucket bytes, frames;
        std::uint32_t waiting = 0;  // queues, a bit for each
        std::uint64_t waits = 0;
        std::unique_ptr<base::LoopTimer> timer;

        Direction(const NetRates& rates, std::uint64_t now)
            : bytes(rates.bytes, rates.burst_bytes, now),
              frames(rates.frames, rates.burst_frames, now)
        {
        }
        [[nodiscard]] bool holds(unsigned queue, std::uint64_t now);
        void passed(std::size_t size, std::uint64_t now);
    };

    RateLimit(std::unique_ptr<NetBackend> inner, const NetRates& rates, Clock clock);
    Handed receive(unsigned queue, Frame& frame) noexcept override;

    Clock clock_;
    Direction out_, in_;
};

}  // namespace doppel::backends
