// The differentiated system description table: what the machine has that guests cannot
// find by themselves.
#include <fmt/format.h>

#include "machine/acpi/aml.h"
#include "machine/acpi/tables.h"
#include "machine/layout.h"

namespace doppel::machine::acpi {

namespace {

using namespace aml;

// One entry per slot and pin: INTx of slot s is I/O APIC input 16 + (s + x) % 4.
Bytes pci_routing()
{
    std::vector<Bytes> entries;
    for (unsigned slot = 0; slot < 32; ++slot) {
        for (unsigned pin = 0; pin < 4; ++pin) {
            entries.push_back(package({integer((std::uint64_t{slot} << 16) | 0xffff), integer(pin),
                                       integer(0),
                                       integer(layout::irq::pci_first + (slot + pin) % 4)}));
        }
    }
    return package(entries);
}

Bytes pci_windows(const Topology& topology)
{
    Bytes windows =
        concat({bus_numbers(0, static_cast<std::uint16_t>(layout::ecam_size / layout::MiB - 1)),
                io_ports(layout::port::pci_config_address, 8),
                io_window(0, layout::port::pci_config_address - 1),
                io_window(layout::port::pci_config_address + 8, 0xffff),
                memory_window32(static_cast<std::uint32_t>(layout::video_start), 0xbffff),
                memory_window32(static_cast<std::uint32_t>(layout::pci_window_start),
                                static_cast<std::uint32_t>(layout::pci_window_end - 1))});
    if (topology.high_ram_end != 0) {
        const std::uint64_t start = (topology.high_ram_end + layout::GiB - 1) & ~(layout::GiB - 1);
        windows = concat({windows, memory_window64(start, start + 16 * layout::GiB - 1)});
    } else {
        windows = concat({windows, memory_window64(layout::high_ram_start,
                                                   layout::high_ram_start + 16 * layout::GiB - 1)});
    }
    return resource_template({windows});
}

Bytes pci_root(const Topology& topology)
{
    // _OSC: grant what was asked for; there is nothing to negotiate on this bus.
    return device("PCI0", {
                              name("_HID", eisa_id("PNP0A08")),
                              name("_CID", eisa_id("PNP0A03")),
                              name("_UID", integer(0)),
                              name("_SEG", integer(0)),
                              name("_BBN", integer(0)),
                              name("_CRS", pci_windows(topology)),
                              name("_PRT", pci_routing()),
                              method("_OSC", 4, {return_value(argument(3))}),
                          });
}

Bytes serial_port()
{
    return device("COM1", {
                              name("_HID", eisa_id("PNP0501")),
                              name("_UID", integer(1)),
                              name("_STA", integer(0xf)),
                              name("_CRS", resource_template({io_ports(layout::port::com1, 8),
                                                              irq_edge(layout::irq::com1)})),
                          });
}

Bytes real_time_clock()
{
    return device("RTC", {
                             name("_HID", eisa_id("PNP0B00")),
                             name("_CRS", resource_template({io_ports(layout::port::rtc, 2),
                                                             irq_edge(layout::irq::rtc)})),
                         });
}

Bytes interval_timer()
{
    return device("TIMR", {
                              name("_HID", eisa_id("PNP0100")),
                              name("_CRS", resource_template({io_ports(layout::port::pit, 4),
                                                              irq_edge(layout::irq::pit)})),
                          });
}

Bytes keyboard()
{
    return device("KBD", {
                             name("_HID", eisa_id("PNP0303")),
                             name("_STA", integer(0xf)),
                             name("_CRS",
                                  resource_template({io_ports(layout::port::i8042_data, 1),
                                                     io_ports(layout::port::i8042_command, 1),
                                                     irq_edge(layout::irq::keyboard)})),
                         });
}

// LNRO0005 is what Linux knows virtio over MMIO as.
Bytes virtio_mmio(unsigned count)
{
    Bytes devices;
    for (unsigned i = 0; i < count; ++i) {
        const std::string hex = fmt::format("VR{:02X}", i);
        const auto address =
            static_cast<std::uint32_t>(layout::virtio_mmio_start + i * layout::virtio_mmio_size);
        const unsigned gsi = layout::irq::virtio_mmio_first + i % layout::irq::virtio_mmio_lines;
        devices = concat(
            {devices,
             device(hex, {name("_HID", string("LNRO0005")), name("_UID", integer(i)),
                          name("_CCA", integer(1)),
                          name("_CRS", resource_template(
                                           {memory32_fixed(address, layout::virtio_mmio_size),
                                            interrupt_level(gsi)}))})});
    }
    return devices;
}

// What is taken without being a device of its own.
Bytes motherboard_resources()
{
    return device(
        "MBRD", {
                    name("_HID", eisa_id("PNP0C02")),
                    name("_CRS", resource_template({
                                     io_ports(layout::port::system_control_a, 1),
                                     io_ports(layout::port::fw_cfg_selector, 12),
                                     io_ports(layout::port::acpi_pm, layout::acpi_pm_size),
                                     memory32_fixed(static_cast<std::uint32_t>(layout::ecam_start),
                                                    static_cast<std::uint32_t>(layout::ecam_size)),
                                 })),
                });
}

}  // namespace

std::vector<std::byte> make_dsdt(const Topology& topology)
{
    Bytes body = scope("\\_SB", {
                                    pci_root(topology),
                                    serial_port(),
                                    real_time_clock(),
                                    interval_timer(),
                                    topology.keyboard ? keyboard() : Bytes{},
                                    virtio_mmio(topology.virtio_mmio),
                                    motherboard_resources(),
                                });
    body = concat({body, name("\\_S5", package({integer(layout::s5_sleep_type),
                                                integer(layout::s5_sleep_type), integer(0),
                                                integer(0)}))});
    return make_table("DSDT", 2, body);
}

}  // namespace doppel::machine::acpi
