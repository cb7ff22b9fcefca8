// Virtio over MMIO, version 2: one window of registers. Virtio 1.2, section 4.2.
//
// Threads: with the device lock held.
#pragma once

#include <memory>

#include "bus/bus.h"
#include "devices/pci/shared_line.h"
#include "devices/virtio/transport/frontend.h"

namespace doppel::devices::virtio {

class MmioTransport final : public bus::BusDevice, private TransportEvents {
public:
    static constexpr std::uint64_t window_size = 0x1000;

    // address: of the window, which the caller claims. user: of the line.
    MmioTransport(std::unique_ptr<Frontend> frontend, SharedLine& line, unsigned user,
                  std::uint64_t address);
    ~MmioTransport() override;

    [[nodiscard]] Frontend& frontend() { return *frontend_; }

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;

    void reset();
    void save(base::StateWriter& writer);
    base::Result<void> load(const base::StateReader& reader);

private:
    void interrupt(std::uint64_t queues, bool config) noexcept override;
    std::optional<bus::DoorbellAddress> doorbell_address(unsigned queue) const override;
    [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const;
    void write_register(std::uint64_t offset, std::uint32_t value);
    void write_queue(std::uint64_t offset, std::uint32_t value);
    void update_line() noexcept { line_.set(user_, state_.interrupt_status != 0); }

    struct State {
        std::uint32_t offered_select, accepted_select;
        std::uint32_t queue_select;
        std::uint32_t interrupt_status;
    };
    std::unique_ptr<Frontend> frontend_;
    SharedLine& line_;
    unsigned user_;
    std::uint64_t address_;
    State state_{};
};

}  // namespace doppel::devices::virtio
