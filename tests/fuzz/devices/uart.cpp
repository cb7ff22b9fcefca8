#include "devices/legacy/uart16550.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    bus::Bus bus;
    Interrupts interrupts;
    bus::ManualClock clock;
    Console console;
    devices::Uart16550 uart{bus, interrupts, 4, clock, console};
    while (!input.empty()) {
        switch (input.byte() % 8) {
        case 0:
        case 1:
        case 2:
        case 3: access(input, uart, 8); break;
        case 4: pass_time(input, clock); break;
        case 5:
            console.input.push_back(static_cast<std::byte>(input.byte()));
            console.on_input();
            break;
        case 6:
            console.room += input.byte();
            console.on_writable();
            break;
        default:
            round_trip(uart);
            if (input.byte() < 16) hostile_load<devices::Uart16550::State>(input, uart, "uart");
        }
        require(uart.state().receive_count <= devices::Uart16550::fifo_size);
        require(uart.state().transmit_count <= devices::Uart16550::fifo_size);
    }
    return 0;
}
