#include "devices/virtio/rng/rng.h"

#include <sys/random.h>

#include <algorithm>

namespace doppel::devices::virtio {

namespace {

// For one request; the driver is told how much it got and asks again. What a hostile one asks for
// would keep the thread for minutes.
constexpr std::size_t most_bytes = 64 * 1024;

}  // namespace

const Identity& Rng::identity() const
{
    static constexpr std::array<std::uint16_t, 1> queues{64};
    static constexpr Identity identity{DeviceId::entropy, "rng", 0x00ff00, queues};
    return identity;
}

void Rng::process(unsigned index) noexcept
{
    Queue& queue = *active_->queue(index);
    unsigned chains = 0;
    while (chains < chains_at_once && queue.pop(chain_)) {
        ++chains;
        ChainWriter writer{active_->dma(), chain_};
        while (!writer.room().empty() && writer.written() < most_bytes) {
            const auto room = writer.room().first(std::min<std::size_t>(
                writer.room().size(), most_bytes - writer.written()));
            const ssize_t got = ::getrandom(room.data(), room.size(), 0);
            if (got <= 0) break;
            writer.wrote(static_cast<std::size_t>(got));
        }
        bytes_.fetch_add(writer.written(), std::memory_order_relaxed);
        queue.push(chain_, writer.written());
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

void Rng::counters(base::CounterList& list, std::string_view prefix) const
{
    list.add(std::string{prefix} + ".bytes", bytes_);
}

}  // namespace doppel::devices::virtio
