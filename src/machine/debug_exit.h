// The port of --debug-exit: a guest's way to end the VM with a value. Not a device of any
// real machine; QEMU's isa-debug-exit is alike.
#pragma once

#include <functional>

#include "base/bytes.h"
#include "bus/bus.h"

namespace doppel::machine {

class DebugExit final : public bus::BusDevice {
public:
    static constexpr std::uint64_t port_count = 1;
    // Called with the device lock held.
    explicit DebugExit(std::function<void(std::uint64_t)> on_exit) : on_exit_(std::move(on_exit)) {}

    void read(std::uint64_t, std::span<std::byte> data) noexcept override
    {
        base::store_bytes(data, 0);
    }
    void write(std::uint64_t, std::span<const std::byte> data) noexcept override
    {
        on_exit_(base::load_bytes(data));
    }

private:
    std::function<void(std::uint64_t)> on_exit_;
};

}  // namespace doppel::machine
