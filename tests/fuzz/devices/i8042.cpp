#include "devices/legacy/i8042.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    Interrupts interrupts;
    devices::I8042 controller{interrupts, [] {}};
    while (!input.empty()) {
        switch (input.byte() % 4) {
        case 0: access(input, controller.data_port(), 1); break;
        case 1: access(input, controller.command_port(), 1); break;
        case 2: round_trip(controller); break;
        default:
            if (input.byte() < 16) hostile_load<devices::I8042::State>(input, controller, "i8042");
        }
        require(controller.state().queued <= devices::I8042::queue_size);
    }
    return 0;
}
