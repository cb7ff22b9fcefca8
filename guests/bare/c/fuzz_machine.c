/* Registers of the devices that every PC has; not those that end or restart the machine, nor what
   would keep this program from telling that it passed. */
#include "fuzz.h"
#include "machine.h"
#include "random.h"

enum {
    lapic = 0xfee00000,
    lapic_icr = 0x300,
    ioapic = 0xfec00000,
    fw_cfg_selector = 0x510,
    fw_cfg_data = 0x511,
    fw_cfg_dma = 0x514,
    uart = 0x3f8,
    acpi_pm = 0x600,
};

static uint32_t swapped(uint32_t value)
{
    return __builtin_bswap32(value);
}

/* The file system of fw_cfg, byte by byte or by its own DMA. */
static void access_fw_cfg(void)
{
    out16(fw_cfg_selector, (uint16_t)(one_in(2) ? 0x10 + below(0x40) : edge32()));
    for (uint32_t i = below(40); i > 0; --i) in8(fw_cfg_data);
    const uint32_t at = data_place(16);
    dword_at(at)[0] = swapped(one_in(8) ? edge32() : below(32) | below(0x30) << 16);
    dword_at(at)[1] = swapped(one_in(8) ? edge32() : below(0x1000));
    dword_at(at)[2] = swapped(one_in(20) ? edge32() | 2 : 0);
    dword_at(at)[3] = swapped(data_place(0x1000));
    /* A length that is wrong would reach this program from below. */
    if (swapped(dword_at(at)[1]) > 0x1000) dword_at(at)[2] = swapped(0xffff0000u);
    out32(fw_cfg_dma, swapped(one_in(20) ? edge32() | 2 : 0));
    out32(fw_cfg_dma + 4, swapped(at));
}

static void access_apics(void)
{
    const uint32_t at = lapic + 16 * below(0x40);
    if (one_in(2)) {
        *dword_at(ioapic) = one_in(8) ? edge32() : below(0x40);
        if (one_in(2)) {
            *dword_at(ioapic + 0x10) = edge32() & ~0x700u;
        } else {
            (void)*dword_at(ioapic + 0x10);
        }
    } else if (one_in(2)) {
        (void)*dword_at(at);
    } else if ((at & 0xff0) != lapic_icr) {
        *dword_at(at) = edge32() & ~0x700u;
    }
}

void access_legacy_device(void)
{
    static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43,
                                     0x61, 0x70, 0x71, uart + 1, uart + 3, uart + 7, acpi_pm,
                                     acpi_pm + 2, acpi_pm + 8, acpi_pm + 12, 0x60, 0xcf8};
    if (one_in(4)) return access_fw_cfg();
    if (one_in(3)) return access_apics();
    const uint16_t port = ports[below(sizeof ports / sizeof ports[0])];
    if (one_in(2)) {
        in8(port);
        if (one_in(4)) in16(port);
        if (one_in(4)) in32(port);
    } else {
        out8(port, (uint8_t)edge32());
    }
    if (port == uart + 3 || port == uart + 1) {
        out8(uart + 3, 3);
        out8(uart + 1, 0);
    }
    /* A keyboard controller that waits for a byte of its output port would reset the machine. */
    if (one_in(8)) out8(0x64, (uint8_t)(0x20 + below(0x80)));
}
