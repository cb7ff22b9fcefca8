// One of several ranges of a device, each with its own meaning of offsets: forwards to two
// member functions of the owner, so that a device needs no class per range.
#pragma once

#include "bus/bus.h"

namespace doppel::bus {

template <typename Owner>
class BusRange final : public BusDevice {
public:
    using Read = void (Owner::*)(std::uint64_t offset, std::span<std::byte> data) noexcept;
    using Write = void (Owner::*)(std::uint64_t offset, std::span<const std::byte> data) noexcept;

    BusRange(Owner& owner, Read on_read, Write on_write)
        : owner_(owner), read_(on_read), write_(on_write)
    {
    }

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override
    {
        (owner_.*read_)(offset, data);
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override
    {
        (owner_.*write_)(offset, data);
    }

private:
    Owner& owner_;
    Read read_;
    Write write_;
};

}  // namespace doppel::bus
