#include "devices/irq/pic.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    bool intr = false;
    devices::Pic pic{[&intr](bool level) { intr = level; }};
    while (!input.empty()) {
        switch (input.byte() % 8) {
        case 0:
        case 1: access(input, pic.master_ports(), 2); break;
        case 2: access(input, pic.slave_ports(), 2); break;
        case 3: access(input, pic.elcr_ports(), 2); break;
        case 4: {
            const std::uint8_t line = input.byte();
            pic.set_line(line % 32, (line & 0x80) != 0);
            break;
        }
        case 5: static_cast<void>(pic.acknowledge()); break;
        case 6: round_trip(pic); break;
        default:
            if (input.byte() < 16) pic.reset();
            if (input.byte() < 16) hostile_load<devices::Pic::State>(input, pic, "pic");
        }
        require(intr == pic.intr());
    }
    return 0;
}
