// An interrupt line that several devices pull: high as long as one of them does.
#pragma once

#include <cstdint>

#include "base/assert.h"
#include "bus/interrupts.h"

namespace doppel::devices {

// Threads: with the device lock held.
class SharedLine {
public:
    static constexpr unsigned user_count = 64;

    SharedLine(bus::InterruptSink& sink, unsigned gsi) : sink_(sink), gsi_(gsi) {}

    void set(unsigned user, bool level) noexcept
    {
        ASSERT(user < user_count);
        const std::uint64_t bit = std::uint64_t{1} << user;
        users_ = level ? users_ | bit : users_ & ~bit;
        if (level_ == (users_ != 0)) return;
        level_ = users_ != 0;
        sink_.set_line(gsi_, level_);
    }

private:
    bus::InterruptSink& sink_;
    unsigned gsi_;
    std::uint64_t users_ = 0;
    bool level_ = false;
};

}  // namespace doppel::devices
