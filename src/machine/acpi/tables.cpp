#include "machine/acpi/tables.h"

#include <algorithm>
#include <numeric>

#include "base/assert.h"
#include "base/bytes.h"
#include "machine/layout.h"

namespace doppel::machine::acpi {

namespace {

constexpr std::size_t header_size = 36, checksum_at = 9;

// Generic Address Structure, ACPI 6.5 section 5.2.3.2.
void write_io_gas(base::ByteWriter& out, std::uint8_t bits, std::uint8_t access,
                  std::uint64_t address)
{
    out.write<std::uint8_t>(1);  // system I/O
    out.write(bits);
    out.write<std::uint8_t>(0);
    out.write(access);  // 1 byte, 2 word, 3 dword
    out.write(address);
}

void write_no_gas(base::ByteWriter& out) { out.fill(12); }

}  // namespace

void set_checksum(std::span<std::byte> bytes, std::size_t at)
{
    bytes[at] = std::byte{0};
    const unsigned sum = std::accumulate(bytes.begin(), bytes.end(), 0u, [](unsigned s, std::byte b) {
        return s + std::to_integer<unsigned>(b);
    });
    bytes[at] = static_cast<std::byte>(0u - sum);
}

std::vector<std::byte> make_table(std::string_view signature, std::uint8_t revision,
                                  std::span<const std::byte> body)
{
    ASSERT(signature.size() == 4);
    base::ByteWriter out;
    out.write_text(signature);
    out.write(static_cast<std::uint32_t>(header_size + body.size()));
    out.write(revision);
    out.write<std::uint8_t>(0);
    out.write_text("DOPPEL");
    out.write_text("DOPPELPC");
    out.write<std::uint32_t>(1);
    out.write_text("DPPL");
    out.write<std::uint32_t>(1);
    out.write_bytes(body);
    auto table = out.take();
    set_checksum(table, checksum_at);
    return table;
}

// ACPI 6.5 section 5.2.12.
std::vector<std::byte> make_madt(const Topology& topology)
{
    base::ByteWriter out;
    out.write(static_cast<std::uint32_t>(layout::lapic_start));
    out.write<std::uint32_t>(1);  // PCAT_COMPAT: there are two 8259s
    for (unsigned i = 0; i < topology.vcpus; ++i) {
        if (i < 255) {
            out.write<std::uint8_t>(0);  // local APIC
            out.write<std::uint8_t>(8);
            out.write(static_cast<std::uint8_t>(i));
            out.write(static_cast<std::uint8_t>(i));
            out.write<std::uint32_t>(1);  // enabled
        } else {
            out.write<std::uint8_t>(9);  // local x2APIC
            out.write<std::uint8_t>(16);
            out.write<std::uint16_t>(0);
            out.write<std::uint32_t>(i);
            out.write<std::uint32_t>(1);
            out.write<std::uint32_t>(i);
        }
    }
    out.write<std::uint8_t>(1);  // I/O APIC
    out.write<std::uint8_t>(12);
    out.write<std::uint8_t>(0);  // its ID
    out.write<std::uint8_t>(0);
    out.write(static_cast<std::uint32_t>(layout::ioapic_start));
    out.write<std::uint32_t>(0);  // first GSI
    const auto source_override = [&out](std::uint8_t irq, std::uint32_t gsi, std::uint16_t flags) {
        out.write<std::uint8_t>(2);
        out.write<std::uint8_t>(10);
        out.write<std::uint8_t>(0);  // ISA
        out.write(irq);
        out.write(gsi);
        out.write(flags);
    };
    source_override(layout::irq::pit, 2, 0);
    source_override(layout::irq::sci, layout::irq::sci, 0xd);  // level, active high
    out.write<std::uint8_t>(4);  // local APIC NMI: LINT1 of all processors
    out.write<std::uint8_t>(6);
    out.write<std::uint8_t>(0xff);
    out.write<std::uint16_t>(0);
    out.write<std::uint8_t>(1);
    return make_table("APIC", 5, out.data());
}

std::vector<std::byte> make_mcfg()
{
    base::ByteWriter out;
    out.write<std::uint64_t>(0);
    out.write(layout::ecam_start);
    out.write<std::uint16_t>(0);  // segment
    out.write<std::uint8_t>(0);   // first bus
    out.write(static_cast<std::uint8_t>(layout::ecam_size / layout::MiB - 1));
    out.write<std::uint32_t>(0);
    return make_table("MCFG", 1, out.data());
}

// ACPI 6.5 section 5.2.10: no header of the common kind, no checksum.
std::vector<std::byte> make_facs()
{
    base::ByteWriter out;
    out.write_text("FACS");
    out.write<std::uint32_t>(64);
    out.fill(24);
    out.write<std::uint8_t>(2);  // version
    out.fill(31);
    return out.take();
}

// ACPI 6.5 section 5.2.9.
std::vector<std::byte> make_fadt(const Topology& topology, std::uint64_t facs, std::uint64_t dsdt)
{
    constexpr std::uint32_t flag_wbinvd = 1 << 0, flag_proc_c1 = 1 << 2,
                            flag_no_sleep_button = 1 << 5, flag_rtc_not_fixed = 1 << 6,
                            flag_timer_32 = 1 << 8, flag_reset_register = 1 << 10;
    constexpr std::uint16_t boot_legacy_devices = 1 << 0, boot_8042 = 1 << 1,
                            boot_no_vga = 1 << 2;
    constexpr std::uint16_t pm = layout::port::acpi_pm;
    base::ByteWriter out;
    out.write(static_cast<std::uint32_t>(facs));
    out.write(static_cast<std::uint32_t>(dsdt));
    out.write<std::uint8_t>(0);
    out.write<std::uint8_t>(0);  // preferred profile: unspecified
    out.write(static_cast<std::uint16_t>(layout::irq::sci));
    out.write<std::uint32_t>(0);  // SMI_CMD: none, always in ACPI mode
    out.fill(4);
    out.write<std::uint32_t>(pm + layout::pm1_event);
    out.write<std::uint32_t>(0);
    out.write<std::uint32_t>(pm + layout::pm1_control);
    out.write<std::uint32_t>(0);
    out.write<std::uint32_t>(0);
    out.write<std::uint32_t>(pm + layout::pm_timer);
    out.write<std::uint32_t>(pm + layout::gpe0);
    out.write<std::uint32_t>(0);
    out.write<std::uint8_t>(4);  // PM1 event length
    out.write<std::uint8_t>(2);  // PM1 control length
    out.write<std::uint8_t>(0);
    out.write<std::uint8_t>(4);  // PM timer length
    out.write<std::uint8_t>(4);  // GPE0 length
    out.fill(3);                 // GPE1 length and base, CST
    out.write<std::uint16_t>(0xffff);  // no C2
    out.write<std::uint16_t>(0xffff);  // no C3
    out.fill(8);                       // flush, duty cycle, day and month alarms
    out.write<std::uint8_t>(0x32);     // century in CMOS
    out.write(static_cast<std::uint16_t>(boot_legacy_devices | boot_no_vga |
                                         (topology.keyboard ? boot_8042 : 0)));
    out.write<std::uint8_t>(0);
    out.write(flag_wbinvd | flag_proc_c1 | flag_no_sleep_button | flag_rtc_not_fixed |
              flag_timer_32 | flag_reset_register);
    write_io_gas(out, 8, 1, layout::port::reset_control);
    out.write<std::uint8_t>(0x06);  // hard reset of the CPU
    out.write<std::uint16_t>(0);
    out.write<std::uint8_t>(5);  // minor version: 6.5
    // The 64-bit fields; with DSDT and FACS below 4 GiB, X_FIRMWARE_CTRL must be zero.
    out.write<std::uint64_t>(0);
    out.write(dsdt);
    write_io_gas(out, 32, 2, pm + layout::pm1_event);
    write_no_gas(out);
    write_io_gas(out, 16, 2, pm + layout::pm1_control);
    write_no_gas(out);
    write_no_gas(out);
    write_io_gas(out, 32, 3, pm + layout::pm_timer);
    write_io_gas(out, 32, 1, pm + layout::gpe0);
    write_no_gas(out);
    write_no_gas(out);  // sleep control
    write_no_gas(out);  // sleep status
    out.write_text("DOPPEL  ");
    ASSERT(out.size() == 276 - header_size);
    return make_table("FACP", 6, out.data());
}

std::vector<std::byte> make_xsdt(std::span<const std::uint64_t> tables)
{
    base::ByteWriter out;
    for (const std::uint64_t table : tables) out.write(table);
    return make_table("XSDT", 1, out.data());
}

// ACPI 6.5 section 5.2.5.3.
std::array<std::byte, rsdp_size> make_rsdp(std::uint64_t xsdt)
{
    base::ByteWriter out;
    out.write_text("RSD PTR ");
    out.write<std::uint8_t>(0);
    out.write_text("DOPPEL");
    out.write<std::uint8_t>(2);
    out.write<std::uint32_t>(0);  // no RSDT
    out.write(static_cast<std::uint32_t>(rsdp_size));
    out.write(xsdt);
    out.fill(4);
    ASSERT(out.size() == rsdp_size);
    std::array<std::byte, rsdp_size> rsdp;
    std::copy(out.data().begin(), out.data().end(), rsdp.begin());
    set_checksum(std::span{rsdp}.first(20), 8);
    set_checksum(rsdp, 32);
    return rsdp;
}

TableSet make_tables(const Topology& topology, std::uint64_t start)
{
    ASSERT(start % 16 == 0);
    TableSet set;
    set.start = start;
    set.bytes.resize(rsdp_size);
    const auto place = [&set](std::string_view signature, const std::vector<std::byte>& table) {
        // FACS wants 64 bytes; the others get it too.
        const std::size_t offset = (set.bytes.size() + 63) & ~std::size_t{63};
        set.bytes.resize(offset);
        set.bytes.insert(set.bytes.end(), table.begin(), table.end());
        set.tables.push_back({std::string{signature}, offset, table.size()});
        return set.start + offset;
    };
    const std::uint64_t facs = place("FACS", make_facs());
    const std::uint64_t dsdt = place("DSDT", make_dsdt(topology));
    const std::array<std::uint64_t, 3> listed{place("FACP", make_fadt(topology, facs, dsdt)),
                                              place("APIC", make_madt(topology)),
                                              place("MCFG", make_mcfg())};
    const std::uint64_t xsdt = place("XSDT", make_xsdt(listed));
    const auto rsdp = make_rsdp(xsdt);
    std::copy(rsdp.begin(), rsdp.end(), set.bytes.begin());
    ASSERT(set.bytes.size() <= layout::acpi_size);
    return set;
}

}  // namespace doppel::machine::acpi
