// How much may be used when: a rate, and a burst that idling earns. Pure: time is a parameter.
//
// The generic cell rate algorithm: one point in time, up to which everything that was used is
// paid for. Use is free until that point is in the future; the last use may go beyond it, so
// that no request is too large ever to be served.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace doppel::backends {

class TokenBucket {
public:
    using Time = std::chrono::nanoseconds;  // since whenever

    TokenBucket() = default;  // no limit
    TokenBucket(std::uint64_t per_second, std::uint64_t burst)
        : cost_(per_second == 0 ? 0.0 : 1e9 / static_cast<double>(per_second)),
          burst_(Time{static_cast<std::int64_t>(
              std::min(static_cast<double>(burst) * cost_, 1e18))})
    {
    }

    // Not before then may something be used.
    [[nodiscard]] Time ready_at() const { return paid_until_; }
    void use(std::uint64_t amount, Time now)
    {
        const double cost = std::min(static_cast<double>(amount) * cost_, 1e15);
        paid_until_ = std::max(paid_until_, now - burst_) + Time{static_cast<std::int64_t>(cost)};
    }

private:
    double cost_ = 0;  // nanoseconds each
    Time burst_{};
    Time paid_until_{};
};

}  // namespace doppel::backends
