#include "devices/legacy/acpi_pm.h"

#include "devices/device_harness.h"

using namespace doppel;
using namespace doppel::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    Interrupts interrupts;
    devices::AcpiPm pm{interrupts, {9, 5}, [] {}};
    while (!input.empty()) {
        switch (input.byte() % 6) {
        case 0: access(input, pm.event_block(), 4); break;
        case 1: access(input, pm.control_block(), 2); break;
        case 2: access(input, pm.gpe0_block(), 4); break;
        case 3: pm.press_power_button(); break;
        case 4: pm.raise_gpe(input.byte()); break;
        default:
            round_trip(pm);
            if (input.byte() < 16) hostile_load<devices::AcpiPm::State>(input, pm, "acpi_pm");
        }
        const auto& state = pm.state();
        const bool wanted = (state.status & state.enable) != 0 ||
                            (state.gpe_status & state.gpe_enable) != 0;
        require(interrupts.lines[9] == (wanted && (state.control & 1) != 0));
    }
    return 0;
}
