#include "devices/pci/pci_host.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    bus::Bus bus;
    devices::PciHost host;
    struct Nothing final : bus::BusDevice {
        void read(std::uint64_t, std::span<std::byte> bytes) noexcept override
        {
            base::store_bytes(bytes, 0);
        }
        void write(std::uint64_t, std::span<const std::byte>) noexcept override {}
    } reset_control;
    constexpr std::uint64_t ecam = 0xb0000000;
    constexpr unsigned buses = 4;
    host.claim(bus, 0xcf8, ecam, buses, reset_control);
    const auto bus_access = [&](bus::Space space, std::uint64_t start, std::uint64_t range) {
        const std::uint8_t kind = input.byte();
        const std::uint64_t address = start + input.bytes(4) % range;
        std::array<std::byte, 8> bytes{};
        const auto part = std::span{bytes}.first(std::size_t{1} << (kind & 3));
        if ((kind & 4) != 0) {
            bus.read(space, address, part);
        } else {
            base::store_bytes(bytes, input.bytes(8));
            bus.write(space, address, part);
        }
    };
    while (!input.empty()) {
        switch (input.byte() % 4) {
        case 0: bus_access(bus::Space::port, 0xcf8, 8); break;
        case 1: bus_access(bus::Space::memory, ecam, buses << 20); break;
        case 2: bus_access(bus::Space::memory, ecam, 4096); break;
        default: round_trip(host);
        }
    }
    return 0;
}
