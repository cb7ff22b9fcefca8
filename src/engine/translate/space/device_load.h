// Whether the guest goes on while its devices work.
//
// Then their threads want a processor beside the vCPU's. A guest that halts after each request
// leaves them its own.
#pragma once

#include <cstdint>

#include "engine/translate/space/host_moment.h"

namespace doppel::engine::translate {

// Threads: the vCPU's.
class DeviceLoad {
public:
    // The guest rang a doorbell, at this host TSC.
    void rang(std::uint64_t tsc)
    {
        if (tsc - since_ > window_ticks) {
            since_ = tsc;
            rings_ = 0;
        }
        if (++rings_ >= many) busy_until_ = tsc + lasts_ticks;
    }
    void halted() { rings_ = 0; }
    [[nodiscard]] bool busy(std::uint64_t tsc) const
    {
        return tsc < busy_until_ && !HostMoment::at(tsc);
    }

    static constexpr unsigned many = 4;                        // without a halt between them
    static constexpr std::uint64_t window_ticks = 2'000'000;   // about a millisecond
    static constexpr std::uint64_t lasts_ticks = 20'000'000;

private:
    std::uint64_t since_ = 0, busy_until_ = 0;
    unsigned rings_ = 0;
};

}  // namespace doppel::engine::translate
