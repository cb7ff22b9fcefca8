// Every magic guest address of the PC, in one place.
//
//   0            conventional memory; boot structures below 0x9fc00, see namespace low
//   0x9fc00      extended BIOS data area, reserved
//   0xa0000      video and option ROM area: RAM behind it, reserved in the memory map
//   0xe0000      RSDP and ACPI tables, reserved
//   0x100000     RAM up to 2.75 GiB at most
//   0xb0000000   PCI ECAM, 16 buses
//   0xc0000000   PCI memory window
//   0xfeb00000   virtio devices outside of PCI, a page each
//   0xfec00000   I/O APIC, 0xfee00000 local APIC
//   0x100000000  the rest of RAM
#pragma once

#include <cstdint>

namespace doppel::machine::layout {

inline constexpr std::uint64_t KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB;

// RAM. Less than minimum_ram cannot hold the ACPI tables.
inline constexpr std::uint64_t minimum_ram = 1 * MiB;
inline constexpr std::uint64_t low_ram_end_max = 0xb0000000;
inline constexpr std::uint64_t high_ram_start = 4 * GiB;
inline constexpr std::uint64_t ebda_start = 0x9fc00;
inline constexpr std::uint64_t video_start = 0xa0000;
inline constexpr std::uint64_t bios_start = 0xe0000;
inline constexpr std::uint64_t extended_start = 1 * MiB;

// ACPI tables: written there at boot; the RSDP comes first, where guests that search find it.
inline constexpr std::uint64_t acpi_start = bios_start;
inline constexpr std::uint64_t acpi_size = 0x10000;

// MMIO.
inline constexpr std::uint64_t ecam_start = 0xb0000000;
// Linux looks at every bus below the last one, so each costs boot time: 64 port accesses.
inline constexpr std::uint64_t ecam_size = 16 * MiB;
inline constexpr std::uint64_t pci_window_start = 0xc0000000;
inline constexpr std::uint64_t pci_window_end = 0xfeb00000;
inline constexpr std::uint64_t virtio_mmio_start = pci_window_end;
inline constexpr std::uint64_t virtio_mmio_size = 0x1000;  // of each
inline constexpr std::uint64_t pci_ports_start = 0xc000;  // of BARs, up to the end
inline constexpr std::uint64_t ioapic_start = 0xfec00000;
inline constexpr std::uint64_t ioapic_size = 0x1000;
inline constexpr std::uint64_t lapic_start = 0xfee00000;

// What the direct kernel boot leaves in conventional memory. Kernels that boot protocols
// enter without firmware must not be loaded over it.
namespace low {
inline constexpr std::uint64_t gdt = 0x500;             // 6 entries
inline constexpr std::uint64_t gdt_size = 6 * 8;
inline constexpr std::uint64_t boot_info = 0x6000;      // PVH start info or multiboot info
inline constexpr std::uint64_t boot_info_size = 0x1000;
inline constexpr std::uint64_t boot_params = 0x7000;    // Linux zero page
inline constexpr std::uint64_t boot_params_size = 0x1000;
inline constexpr std::uint64_t stack_top = 0x9000;      // one page below it
inline constexpr std::uint64_t page_tables = 0x9000;    // PML4, PDPT, four page directories
inline constexpr std::uint64_t page_tables_size = 0x6000;
inline constexpr std::uint64_t cmdline = 0x20000;
inline constexpr std::uint64_t cmdline_size_max = 0x10000;  // with the final zero
}  // namespace low

// Ports.
namespace port {
inline constexpr std::uint16_t pic_master = 0x20, pic_slave = 0xa0, pic_elcr = 0x4d0;
inline constexpr std::uint16_t pit = 0x40, system_control_b = 0x61;
inline constexpr std::uint16_t i8042_data = 0x60, i8042_command = 0x64;
inline constexpr std::uint16_t rtc = 0x70;
inline constexpr std::uint16_t system_control_a = 0x92;
inline constexpr std::uint16_t com1 = 0x3f8;
inline constexpr std::uint16_t fw_cfg_selector = 0x510, fw_cfg_data = 0x511, fw_cfg_dma = 0x514;
inline constexpr std::uint16_t acpi_pm = 0x600;  // PM1a event, PM1a control, PM timer, GPE0
inline constexpr std::uint16_t pci_config_address = 0xcf8, pci_config_data = 0xcfc;
inline constexpr std::uint16_t reset_control = 0xcf9;
}  // namespace port

// Offsets of the ACPI registers from port::acpi_pm.
inline constexpr std::uint16_t pm1_event = 0, pm1_control = 4, pm_timer = 8, gpe0 = 12;
inline constexpr std::uint16_t acpi_pm_size = 16;

// Interrupt lines (GSIs).
namespace irq {
inline constexpr unsigned pit = 0, keyboard = 1, com1 = 4, rtc = 8, sci = 9, mouse = 12;
inline constexpr unsigned pci_first = 16, pci_lines = 4;  // INTA#-INTD# of slot 0, rotating by slot
inline constexpr unsigned virtio_mmio_first = 20, virtio_mmio_lines = 4;  // rotating by device
}  // namespace irq

// ACPI sleep type of S5, the value of SLP_TYP in PM1a control.
inline constexpr std::uint8_t s5_sleep_type = 5;

}  // namespace doppel::machine::layout
