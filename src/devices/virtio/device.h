// What every virtio device looks like to its transport, and what it has while a driver uses it.
//
//   Transport (PCI, MMIO) ──▶ Frontend: status, features, queues ──▶ Device
//                                │                                     │ activate(Active&)
//                                └── I/O thread, doorbells ────────────┴─▶ process(queue)
//
// Threads: everything of a device is called on its own I/O thread, or while that does not run, so
// a device needs no lock. Constructors and what makes the device's backends get that thread's
// event loop. Nothing may wait for another thread that could want the device lock.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/counters.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "base/state/state_stream.h"
#include "devices/virtio/queue/ring.h"
#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

// A queue of an active device.
class Queue {
public:
    virtual ~Queue() = default;
    [[nodiscard]] virtual bool pop(Chain& chain) = 0;
    virtual void unpop(const Chain& chain) = 0;
    // Gives the chain back; the driver learns of it with signal() at the latest.
    virtual void push(const Chain& chain, std::uint32_t written) = 0;
    // As push(), but the driver sees nothing before publish(), and then all of it.
    virtual void fill(const Chain& chain, std::uint32_t written) = 0;
    virtual void publish() = 0;
    // Interrupts the driver if it wants that for what was pushed.
    virtual void signal() = 0;
    // The driver has broken the protocol of the device: NEEDS_RESET, a counter, a line in the log.
    virtual void broken(std::string_view why) = 0;
};

// What a device may use from activate() to deactivate(), and must not keep longer.
class Active {
public:
    virtual ~Active() = default;
    [[nodiscard]] virtual Features features() const = 0;
    [[nodiscard]] virtual const Dma& dma() const = 0;
    // nullptr: the driver did not set that queue up.
    [[nodiscard]] virtual Queue* queue(unsigned index) = 0;
    // As if the driver had rung: process() is called soon. For devices that stopped early.
    virtual void ring(unsigned index) = 0;
};

// What stays the same for a device's whole life.
struct Identity {
    DeviceId id{};
    std::string_view name;                // of its section in a saved state, and in counters
    std::uint32_t pci_class = 0;          // 24 bits
    std::span<const std::uint16_t> queue_sizes;  // one for each queue, 62 at most; powers of two
};

// How the device tells that its configuration space has changed by itself.
class ConfigListener {
public:
    virtual ~ConfigListener() = default;
    virtual void config_changed() noexcept = 0;
};

class Device {
public:
    // A queue gives up its thread to others after so many chains.
    static constexpr unsigned chains_at_once = 256;

    virtual ~Device() = default;

    [[nodiscard]] virtual const Identity& identity() const = 0;
    // Of its own, bits 0 to 23 and above 50; the transport adds the reserved ones.
    [[nodiscard]] virtual Features features() const { return 0; }

    // Configuration space as it is now, the same size at all times.
    [[nodiscard]] virtual std::span<const std::byte> config() const { return {}; }
    // Wholly inside config(). Fields that the driver may not write stay as they are.
    virtual void write_config(std::size_t offset, std::span<const std::byte> data) noexcept
    {
        static_cast<void>(offset), static_cast<void>(data);
    }
    virtual void attach(ConfigListener& listener) { static_cast<void>(listener); }

    virtual void activate(Active& active) noexcept = 0;
    // Reset by the driver, or with the machine: returns when nothing of the device touches guest
    // memory any more. Only after activate().
    virtual void deactivate() noexcept = 0;
    // The driver rang for this queue, one that is set up, or nobody knows whether it did.
    virtual void process(unsigned queue) noexcept = 0;

    // Before save(): every chain that was popped is pushed again.
    virtual void drain() noexcept {}
    // What is not in the transport's state. load() checks as if the stream were hostile; a device
    // that was active is activated behind it.
    virtual void save(base::StateWriter& writer, std::string_view section) const
    {
        static_cast<void>(writer), static_cast<void>(section);
    }
    virtual base::Result<void> load(const base::StateReader& reader, std::string_view section)
    {
        static_cast<void>(reader), static_cast<void>(section);
        return {};
    }
    virtual void counters(base::CounterList& list, std::string_view prefix) const
    {
        static_cast<void>(list), static_cast<void>(prefix);
    }
};

}  // namespace doppel::devices::virtio
