// Where guest accesses to ports and to guest-physical ranges without memory behind
// them meet devices.
//
// Threads: ranges are claimed while the machine is built. read()/write() come from vCPU
// threads and take the device lock; event-loop callbacks that enter devices (timers,
// console input) take it too, through lock(). A device therefore never sees two calls
// at once and needs no lock of its own. Doorbells bypass it.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>

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

class Bus {
public:
    // Overlap is our bug (asserted). The device must outlive the bus's last access.
    void claim(Space space, std::uint64_t start, std::uint64_t size, BusDevice& device);
    void release(Space space, std::uint64_t start);

    // Unclaimed: reads give all ones, writes vanish; both are counted. An access that
    // straddles the end of a range is split into bytes.
    void read(Space space, std::uint64_t address, std::span<std::byte> data) noexcept;
    void write(Space space, std::uint64_t address, std::span<const std::byte> data) noexcept;

    [[nodiscard]] std::unique_lock<std::mutex> lock() { return std::unique_lock{mutex_}; }
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

    std::mutex mutex_;
    Ranges ports_;
    Ranges memory_;
    std::uint64_t unclaimed_ = 0;
};

}  // namespace doppel::bus
