// A virtio device behind a transport, with a driver that sets it up through the registers. The
// device's thread does not run: pump() does what it would.
#pragma once

#include <memory>

#include "bus/doorbell_set.h"
#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"
#include "fakes.h"
#include "virtio_driver.h"

namespace doppel::devices::virtio {

struct VirtioWorld {
    std::unique_ptr<memory::GuestMemory> memory = make_memory();
    bus::Bus bus;
    bus::DoorbellSet doorbells;
    FakeInterrupts interrupts;
    SharedLine line{interrupts, 16};
    Platform platform{bus, *memory, doorbells};

    std::unique_ptr<Frontend> frontend(const DeviceFactory& make,
                                       Features offered = ~VIRTIO_F_ACCESS_PLATFORM)
    {
        return std::move(Frontend::create("test", platform, make, offered)).value();
    }
    static void pump(Frontend& frontend)
    {
        for (int i = 0; i < 3; ++i) {
            frontend.thread().loop().stop();
            frontend.thread().loop().run();
        }
    }
};

// Over PCI, by the modern registers.
class PciDriver {
public:
    PciDriver(VirtioWorld& world, std::unique_ptr<Frontend> frontend, bool legacy = true)
        : world_(world),
          transport(std::move(frontend), {world.interrupts, world.line, 0, legacy})
    {
        transport.place_bar(1, 0xc0000000);
        transport.place_bar(4, 0xc0004000);
        transport.enable_decoding();
    }
    std::uint64_t in(std::uint64_t offset, std::size_t size) { return devices::in(bar(4), offset, size); }
    // A write, with the device lock held as on the bus.
    void out(std::uint64_t offset, std::uint64_t value, std::size_t size)
    {
        const auto guard = world_.bus.lock();
        devices::out(bar(4), offset, value, size);
    }
    [[nodiscard]] bus::BusDevice& bar(unsigned index) { return *transport.window(index).device; }
    std::uint64_t config(unsigned offset, std::size_t size)
    {
        std::array<std::byte, 8> data{};
        transport.read_config(offset, std::span{data}.first(size));
        return base::load_bytes(data);
    }
    void set_config(unsigned offset, std::uint64_t value, std::size_t size)
    {
        const auto guard = world_.bus.lock();
        std::array<std::byte, 8> data{};
        base::store_bytes(data, value);
        transport.write_config(offset, std::span<const std::byte>{data}.first(size));
    }

    // Up to FEATURES_OK; did the device agree?
    bool negotiate(Features wanted)
    {
        out(0x14, 0, 1);
        out(0x14, status::ACKNOWLEDGE | status::DRIVER, 1);
        for (unsigned half = 0; half < 2; ++half) {
            out(0x08, half, 4);
            out(0x0c, wanted >> (32 * half) & 0xffffffff, 4);
        }
        out(0x14, 11, 1);
        return (in(0x14, 1) & status::FEATURES_OK) != 0;
    }
    [[nodiscard]] Features offered()
    {
        out(0x00, 0, 4);
        const std::uint64_t low = in(0x04, 4);
        out(0x00, 1, 4);
        return low | in(0x04, 4) << 32;
    }
    void set_queue(unsigned index, const RingAddress& address, std::uint16_t vector)
    {
        out(0x16, index, 2);
        out(0x18, address.size, 2);
        out(0x1a, vector, 2);
        out(0x20, address.descriptors, 8);
        out(0x28, address.driver & 0xffffffff, 4);
        out(0x2c, address.driver >> 32, 4);
        out(0x30, address.device, 8);
        out(0x1c, 1, 2);
    }
    void enable_msix(unsigned vectors)
    {
        for (unsigned i = 0; i < vectors; ++i) {
            devices::out(bar(1), 16 * i, 0xfee00000, 8);
            devices::out(bar(1), 16 * i + 8, 0x40 + i, 4);
            devices::out(bar(1), 16 * i + 12, 0, 4);
        }
        set_config(0x42, 0x8000, 2);
    }
    void ready() { out(0x14, 15, 1); pump(); }
    // Rings, and lets the device work.
    void ring(unsigned queue)
    {
        out(0x3000 + 4 * queue, queue, 2);
        pump();
    }
    void pump() { VirtioWorld::pump(transport.frontend()); }

private:
    VirtioWorld& world_;

public:
    PciTransport transport;
};

}  // namespace doppel::devices::virtio
