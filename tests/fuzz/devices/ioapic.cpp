#include "devices/irq/ioapic.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    LocalInterrupts local;
    devices::IoApic ioapic{local};
    while (!input.empty()) {
        switch (input.byte() % 8) {
        case 0:
        case 1:
        case 2: {
            // Index and data, so that the registers are reached.
            std::array<std::byte, 4> word{};
            word[0] = static_cast<std::byte>(input.byte() & 0x3f);
            ioapic.write(0, word);
            base::store_bytes(word, input.bytes(4));
            ioapic.write(0x10, word);
            break;
        }
        case 3: access(input, ioapic, devices::IoApic::window_size); break;
        case 4: {
            const std::uint8_t pin = input.byte();
            ioapic.set_pin(pin % 32, (pin & 0x80) != 0);
            break;
        }
        case 5: ioapic.end_of_interrupt(input.byte()); break;
        case 6: round_trip(ioapic); break;
        default:
            if (input.byte() < 16) hostile_load<devices::IoApic::State>(input, ioapic, "ioapic");
        }
    }
    return 0;
}
