#include "devices/legacy/reset_ports.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    devices::ResetPorts ports{[] {}};
    while (!input.empty()) {
        switch (input.byte() % 4) {
        case 0: access(input, ports.port_a(), 1); break;
        case 1: access(input, ports.reset_control(), 1); break;
        case 2: round_trip(ports); break;
        default: hostile_load<devices::ResetPorts::State>(input, ports, "reset_ports");
        }
    }
    return 0;
}
