// The VM's clock: nanoseconds of guest time. It stops when the VM does, and it is the
// only time that devices and engines may use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/event_loop.h"
#include "base/result.h"

namespace doppel::bus {

// One-shot. The callback runs on the event loop's thread, without the device lock.
// Destruction cancels; after it returns on the loop's thread no callback runs.
class Timer {
public:
    virtual ~Timer() = default;
    virtual void arm(std::uint64_t deadline_ns) = 0;  // VmClock time; past: fires at once
    virtual void cancel() = 0;
};

// How a running clock follows from the host's: now_ns() is CLOCK_MONOTONIC minus
// monotonic_ns, tsc() is the host's TSC minus tsc (mod 2^64).
struct HostOffsets {
    std::uint64_t monotonic_ns = 0;
    std::uint64_t tsc = 0;
    bool operator==(const HostOffsets&) const = default;
};

// Threads: all calls from any thread.
class VmClock {
public:
    virtual ~VmClock() = default;
    [[nodiscard]] virtual std::uint64_t now_ns() const = 0;
    // Guest time-stamp counter: rises at tsc_hz(), stops with the clock.
    [[nodiscard]] virtual std::uint64_t tsc() const = 0;
    [[nodiscard]] virtual std::uint64_t tsc_hz() const = 0;
    // For another process that has to keep the same time. Nothing: the clock stands still, or
    // moves when it is told to.
    [[nodiscard]] virtual std::optional<HostOffsets> host_offsets() const { return std::nullopt; }
    virtual std::unique_ptr<Timer> create_timer(std::function<void()> callback) = 0;
};

// The host's monotonic clock and invariant TSC, shifted to begin at zero.
class HostVmClock : public VmClock {
public:
    static base::Result<std::unique_ptr<HostVmClock>> create(base::EventLoop& loop);
    ~HostVmClock() override = default;
    virtual void pause() = 0;
    virtual void resume() = 0;
};

}  // namespace doppel::bus
