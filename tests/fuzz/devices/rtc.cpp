#include "devices/timer/rtc.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    bus::Bus bus;
    Interrupts interrupts;
    bus::ManualClock clock;
    devices::Rtc rtc{bus, interrupts, clock, {1'700'000'000, 512u << 20, 0}};
    while (!input.empty()) {
        switch (input.byte() % 6) {
        case 0:
        case 1:
        case 2: {
            std::array<std::byte, 2> pair{static_cast<std::byte>(input.byte() & 0x3f),
                                          static_cast<std::byte>(input.byte())};
            rtc.write(0, pair);
            rtc.read(1, std::span{pair}.first(1));
            break;
        }
        case 3:
            if (clock.fired() < 20'000) pass_time(input, clock);
            break;
        case 4: access(input, rtc, 2); break;
        default:
            // A look at a register brings the state up to the present.
            static_cast<void>(read_byte(rtc, 1));
            round_trip(rtc);
            if (input.byte() < 16) hostile_load<devices::Rtc::State>(input, rtc, "rtc");
        }
    }
    return 0;
}
