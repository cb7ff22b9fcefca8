// A backend that passes requests on as fast as its limits allow, in the order they came.
#pragma once

#include <deque>

#include "backends/block/block.h"
#include "backends/block/token_bucket.h"

namespace doppel::backends {

class ThrottledBackend final : public BlockBackend {
public:
    static base::Result<std::unique_ptr<BlockBackend>> create(base::EventLoop& loop,
                                                              std::unique_ptr<BlockBackend> below,
                                                              const ThrottleLimits& limits);
    ~ThrottledBackend() override;

private:
    ThrottledBackend(base::EventLoop& loop, std::unique_ptr<BlockBackend> below,
                     const ThrottleLimits& limits);
    void start(std::span<Request> requests) noexcept override;
    void hurry() noexcept override;
    void pass_on(bool at_once);
    void pass_on(Request&& request);
    void set_timer(TokenBucket::Time at);

    std::unique_ptr<BlockBackend> below_;
    TokenBucket bytes_;
    TokenBucket requests_;
    std::deque<Request> waiting_;
    base::Fd timer_;
};

}  // namespace doppel::backends
