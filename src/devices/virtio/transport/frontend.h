// What all transports have in common: the device's status, feature negotiation, its queues'
// settings and their doorbells, and the device itself on its thread.
//
// Threads: all calls with the device lock held, but for counters(). Registers belong to that lock;
// rings, once the device is active, to the device's thread. interrupt() of the transport is called
// with the lock held, too.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/doorbell.h"
#include "bus/doorbell_set.h"
#include "devices/virtio/device.h"
#include "devices/virtio/transport/io_thread.h"

namespace doppel::devices::virtio {

// Makes the device on its event loop.
using DeviceFactory =
    std::function<base::Result<std::unique_ptr<Device>>(base::EventLoop& loop)>;

// What a machine gives to every device.
struct Platform {
    bus::Bus& bus;
    memory::GuestMemory& memory;
    bus::Doorbells& doorbells;
};

class TransportEvents {
public:
    virtual ~TransportEvents() = default;
    // queues: a bit for each; config: the configuration changed.
    virtual void interrupt(std::uint64_t queues, bool config) noexcept = 0;
    // Where the driver rings for a queue now; nothing: nowhere.
    [[nodiscard]] virtual std::optional<bus::DoorbellAddress> doorbell_address(
        unsigned queue) const = 0;
};

class Frontend final : private ConfigListener {
public:
    static constexpr unsigned most_queues = 62;

    struct QueueRegisters {
        std::uint64_t descriptors, driver, device;  // addresses
        std::uint16_t size;
        std::uint16_t vector;  // the transport's
        std::uint8_t enabled;
        std::uint8_t reserved[3];
    };

    // name: unique in the machine. offered: a mask on the features; bits outside of it are not shown.
    static base::Result<std::unique_ptr<Frontend>> create(std::string name,
                                                          const Platform& platform,
                                                          const DeviceFactory& make,
                                                          Features offered);
    ~Frontend() override;
    void connect(TransportEvents& transport) { transport_ = &transport; }

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const Identity& identity() const { return device_->identity(); }
    [[nodiscard]] unsigned queue_count() const { return queue_count_; }
    // The thread runs from now on.
    void start() { thread_->start(); }
    void stop() { thread_->stop(); }
    [[nodiscard]] IoThread& thread() { return *thread_; }

    [[nodiscard]] Features offered() const { return offered_; }
    [[nodiscard]] Features accepted() const { return state_.accepted; }
    // The halves of 32 bits that a driver sees. Ignored once FEATURES_OK is set.
    [[nodiscard]] std::uint32_t offered(std::uint32_t half) const;
    [[nodiscard]] std::uint32_t accepted(std::uint32_t half) const;
    void accept(std::uint32_t half, std::uint32_t bits);

    [[nodiscard]] std::uint8_t status() const;
    // A driver of the legacy interface does without FEATURES_OK and VIRTIO_F_VERSION_1.
    enum class Interface { modern, legacy };
    void set_status(std::uint8_t status, Interface interface);
    void reset();

    // Below queue_count(), else all zeros and without effect.
    [[nodiscard]] const QueueRegisters& queue(unsigned index) const;
    [[nodiscard]] std::uint16_t largest(unsigned index) const;
    // Ignored for all but the vector while the device is active or the queue is enabled.
    enum class Area { descriptors, driver, device };
    enum class Half { low, high };
    void set_queue_address(unsigned index, Area area, Half half, std::uint32_t value);
    void set_queue_addresses(unsigned index, const RingAddress& address);
    void set_queue_size(unsigned index, std::uint16_t size);
    void set_queue_vector(unsigned index, std::uint16_t vector);
    void set_queue_enabled(unsigned index, bool enabled);
    void ring(unsigned index);
    // The transport's doorbell_address() may answer otherwise from now on.
    void move_doorbells();

    // Bytes behind the end read as zero.
    void read_config(std::size_t offset, std::span<std::byte> data) const;
    void write_config(std::size_t offset, std::span<const std::byte> data);
    [[nodiscard]] std::size_t config_size() const { return config_size_; }
    [[nodiscard]] std::uint8_t config_generation() const { return generation_.load(); }

    void save(base::StateWriter& writer);
    base::Result<void> load(const base::StateReader& reader);
    void counters(base::CounterList& list) const;

private:
    class LiveQueue;
    class Live;
    [[nodiscard]] QueueRegisters* changeable(unsigned index);
    struct State {
        std::uint64_t accepted;
        std::uint8_t status;
        std::uint8_t generation;   // these two: when saved; otherwise the atomics count
        std::uint8_t needs_reset;
        std::uint8_t active;
        std::uint8_t reserved[4];
        std::array<QueueRegisters, most_queues> queues;
        std::array<RingState, most_queues> rings;  // where they stand when the device is activated
    };

    Frontend(std::string name, const Platform& platform, Features offered);
    void initialise();
    [[nodiscard]] bool features_agree() const;
    void activate();
    void deactivate();
    void listen(unsigned index);
    void process(unsigned index) noexcept;
    [[nodiscard]] base::Result<void> check(const State& state) const;

    void config_changed() noexcept override;
    void publish_config();
    void signal(std::uint64_t queues, bool config) noexcept;
    void deliver() noexcept;
    void needs_reset(unsigned queue, std::string_view why) noexcept;

    std::string name_;
    Platform platform_;
    Dma dma_;
    std::unique_ptr<IoThread> thread_;
    std::unique_ptr<Device> device_;
    TransportEvents* transport_ = nullptr;
    Features offered_;
    unsigned queue_count_ = 0;
    std::size_t config_size_ = 0;
    State state_{};

    // The device's thread while it is active.
    std::unique_ptr<Live> live_;
    // For queues that the engine has no doorbell for: rung through the bus.
    bus::DoorbellSet own_doorbells_;
    // Made and dropped on the device's thread, with the device lock held by whoever waits for that.
    std::array<std::shared_ptr<bus::Doorbell>, most_queues> doorbells_;

    // What the device's thread tells.
    mutable std::mutex config_mutex_;  // nothing is locked under it
    std::vector<std::byte> config_;
    std::atomic<std::uint8_t> generation_{0};
    std::atomic<std::uint64_t> pending_{0};  // bit 63: the configuration
    std::atomic<bool> needs_reset_{false};
    std::atomic<std::uint64_t> interrupts_{0}, rings_{0}, chains_{0}, broken_{0};
};

}  // namespace doppel::devices::virtio
