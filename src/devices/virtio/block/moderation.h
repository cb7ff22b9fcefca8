// When to interrupt the driver for requests that are done, while others are under way.
//
// An interrupt costs the guest more than a request does: it leaves what it runs, and wakes whoever
// waits. A driver that keeps many requests under way does as much for several at once, so these wait
// for each other, in a fixed part of what is under way and for a bounded time. A driver that waits
// for one or a few is told at once, and so is one that moves much at a time: there an interrupt is
// little beside the request.
#pragma once

#include <cstdint>

namespace doppel::devices::virtio {

class Moderation {
public:
    // What is done waits for others at most so long.
    static constexpr std::uint64_t most_wait_ns = 100'000;

    void started() { ++under_way_; }
    void done(std::uint64_t bytes)
    {
        --under_way_;
        ++waiting_;
        large_ = large_ || bytes >= large;
    }
    // After one or several done(): whether to interrupt now. False with something waiting(): when
    // the time is over.
    [[nodiscard]] bool due() const
    {
        return waiting_ != 0 && (large_ || under_way_ < few || waiting_ >= under_way_ / part);
    }
    [[nodiscard]] bool waiting() const { return waiting_ != 0; }
    void interrupted()
    {
        waiting_ = 0;
        large_ = false;
    }

private:
    // So many under way mean that the driver waits for them rather than works meanwhile.
    static constexpr unsigned few = 4;
    static constexpr unsigned part = 3;
    static constexpr std::uint64_t large = 64 * 1024;

    unsigned under_way_ = 0;
    unsigned waiting_ = 0;  // done, and the driver was not told
    bool large_ = false;    // one of these is
};

}  // namespace doppel::devices::virtio
