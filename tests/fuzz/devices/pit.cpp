#include "devices/timer/pit.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    bus::Bus bus;
    Interrupts interrupts;
    bus::ManualClock clock;
    devices::Pit pit{bus, interrupts, clock};
    // A guest may ask for an interrupt every two ticks; do not simulate a day of those.
    std::uint64_t budget = 1'000'000'000;
    while (!input.empty()) {
        switch (input.byte() % 6) {
        case 0:
        case 1: access(input, pit.counter_ports(), 4); break;
        case 2: access(input, pit.port_b(), 1); break;
        case 3: {
            const std::uint64_t step = std::min(budget, std::uint64_t{1} << input.byte() % 28);
            budget -= step;
            if (clock.fired() < 20'000) clock.advance(step);
            break;
        }
        case 4: round_trip(pit); break;
        default:
            if (input.byte() < 16) hostile_load<devices::Pit::State>(input, pit, "pit");
        }
        for (unsigned i = 0; i < 3; ++i) static_cast<void>(pit.output(i));
    }
    return 0;
}
