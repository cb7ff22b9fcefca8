#include "backends/net/rate_limit.h"

#include <bit>

namespace doppel::backends {

namespace {

template <typename Call>
void for_each_bit(std::uint32_t bits, Call call)
{
    for (; bits != 0; bits &= bits - 1) call(static_cast<unsigned>(std::countr_zero(bits)));
}

}  // namespace

RateLimit::RateLimit(std::unique_ptr<NetBackend> inner, const NetRates& rates, Clock clock)
    : NetFilter(std::move(inner)),
      clock_(std::move(clock)),
      out_(rates, clock_()),
      in_(rates, clock_())
{
}

base::Result<std::unique_ptr<NetBackend>> RateLimit::create(base::EventLoop& loop,
                                                            std::unique_ptr<NetBackend> inner,
                                                            const NetRates& rates, Clock clock)
{
    std::unique_ptr<RateLimit> limit{new RateLimit{std::move(inner), rates, std::move(clock)}};
    RateLimit* raw = limit.get();
    limit->out_.timer = TRY(base::LoopTimer::create(loop, [raw] {
        for_each_bit(std::exchange(raw->out_.waiting, 0), [raw](unsigned queue) {
            raw->receiver().writable(queue);
        });
    }));
    limit->in_.timer = TRY(base::LoopTimer::create(loop, [raw] {
        for_each_bit(std::exchange(raw->in_.waiting, 0), [raw](unsigned queue) {
            raw->inner().resume(queue);
        });
    }));
    return std::unique_ptr<NetBackend>{std::move(limit)};
}

bool RateLimit::Direction::holds(unsigned queue, std::uint64_t now)
{
    const std::uint64_t ready = std::max(bytes.ready_ns(), frames.ready_ns());
    if (ready <= now) return false;
    if (waiting == 0) {
        ++waits;
        timer->set(base::monotonic_ns() + (ready - now));
    }
    waiting |= std::uint32_t{1} << queue;
    return true;
}

void RateLimit::Direction::passed(std::size_t size, std::uint64_t now)
{
    bytes.take(size, now);
    frames.take(1, now);
}

Handed RateLimit::send(unsigned queue, Frame& frame) noexcept
{
    const std::uint64_t now = clock_();
    if (out_.holds(queue, now)) return Handed::wait;
    const std::size_t size = frame.bytes.size();
    const Handed handed = NetFilter::send(queue, frame);
    if (handed == Handed::yes) out_.passed(size, now);
    return handed;
}

Handed RateLimit::receive(unsigned queue, Frame& frame) noexcept
{
    const std::uint64_t now = clock_();
    if (in_.holds(queue, now)) return Handed::wait;
    const std::size_t size = frame.bytes.size();
    const Handed handed = NetFilter::receive(queue, frame);
    if (handed == Handed::yes) in_.passed(size, now);
    return handed;
}

void RateLimit::resume(unsigned queue) noexcept
{
    // Until the timer rings nothing would pass anyway.
    if ((in_.waiting >> queue & 1) == 0) NetFilter::resume(queue);
}

void RateLimit::counters(base::CounterList& list, std::string_view prefix) const
{
    list.add(std::string{prefix} + ".limited_out", out_.waits);
    list.add(std::string{prefix} + ".limited_in", in_.waits);
    NetFilter::counters(list, prefix);
}

}  // namespace doppel::backends
