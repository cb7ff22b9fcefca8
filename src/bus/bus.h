// Where guest accesses to ports and to guest-physical ranges without memory behind
// them meet devices.
//
// Threads: ranges are claimed while the machine is built, or with the device lock held. read()/write() come from vCPU
// threads and take the device lock; event-loop callbacks that enter devices (timers,
// console input) take it too, through lock(). A device therefore never sees two calls
// at once and needs no lock of its own. Doorbells bypass it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/address.h"

namespace doppel::bus {

using base::Gpa;

class BusDevice {
public:
    virtual ~BusDevice() = default;
    // offset: from the start of the claimed range. 1, 2, 4 or 8 bytes, little-endian.
    // A register that is not there reads as zeros or ones, as its specification says.
    virtual void read(std::uint64_t offset, std::span<std::byte> data) noexcept = 0;
    virtual void write(std::uint64_t offset, std::span<const std::byte> data) noexcept = 0;
};

enum class Space { port, memory };

// The device lock. A thread that somebody may wait for with the lock held must not wait for it
// itself: it defers what needs the lock, to itself if the lock is free, else to whoever has it.
class DeviceLock {
public:
    void lock() { mutex_.lock(); }
    void unlock();
    // Calls `task` with the lock held, now or when it is next given back. Must not throw.
    void defer(std::function<void()> task);

private:
    std::mutex mutex_;
    std::mutex deferred_mutex_;  // nothing is locked under it
    std::vector<std::function<void()>> deferred_;
    std::atomic<bool> has_deferred_{false};
};

class Bus {
public:
    // Overlap is our bug (asserted). The device must outlive the bus's last access.
    void claim(Space space, std::uint64_t start, std::uint64_t size, BusDevice& device);
    // For ranges that the guest places: false, and nothing claimed, where it would overlap.
    [[nodiscard]] bool try_claim(Space space, std::uint64_t start, std::uint64_t size,
                                 BusDevice& device);
    void release(Space space, std::uint64_t start);

    // Unclaimed: reads give all ones, writes vanish; both are counted. An access that
    // straddles the end of a range is split into bytes.
    void read(Space space, std::uint64_t address, std::span<std::byte> data) noexcept;
    void write(Space space, std::uint64_t address, std::span<const std::byte> data) noexcept;

    [[nodiscard]] std::unique_lock<DeviceLock> lock() { return std::unique_lock{mutex_}; }
    // Any thread, with the lock held or not: calls `task` with the lock held, soon. Not at once
    // when this thread holds it.
    void defer(std::function<void()> task) { mutex_.defer(std::move(task)); }
    [[nodiscard]] std::uint64_t unclaimed() const { return unclaimed_; }

private:
    struct Range {
        std::uint64_t size;
        BusDevice* device;
    };
    using Ranges = std::map<std::uint64_t, Range>;
    struct Hit {
        BusDevice* device;
        std::uint64_t offset;
        std::uint64_t left;
    };
    Ranges& ranges(Space space) { return space == Space::port ? ports_ : memory_; }
    Hit find(Space space, std::uint64_t address) noexcept;

    DeviceLock mutex_;
    Ranges ports_;
    Ranges memory_;
    std::uint64_t unclaimed_ = 0;
};

}  // namespace doppel::bus
