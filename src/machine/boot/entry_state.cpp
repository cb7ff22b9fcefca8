// vCPU states that the boot protocols ask for. SDM volume 3 sections 3.4.5 (descriptors),
// 4.5 (4-level paging), 9.8 (entering protected and long mode).
#include "base/bytes.h"
#include "machine/boot/protocols.h"
#include "machine/layout.h"

namespace doppel::machine::boot {

namespace {

// __BOOT_CS and __BOOT_DS of the Linux boot protocol; the others do not care.
constexpr std::uint16_t code_selector = 0x10, data_selector = 0x18, tss_selector = 0x20;

x86::Segment flat(std::uint16_t selector, std::uint32_t type, std::uint32_t width)
{
    namespace attributes = x86::segment_attributes;
    x86::Segment segment;
    segment.selector = selector;
    segment.limit = 0xffffffff;
    segment.attributes = type | attributes::S | attributes::P | attributes::G | width;
    return segment;
}

x86::CpuState flat_state(std::uint64_t rip, std::uint32_t code_width)
{
    namespace attributes = x86::segment_attributes;
    x86::CpuState state = x86::reset_state(true);
    state.gpr = {};
    state.rip = rip;
    state.rflags = x86::rflags::RESERVED1;
    state.segments.fill(flat(data_selector, 0x3, attributes::DB));
    state.segments[x86::CS] = flat(code_selector, 0xb, code_width);
    state.tr = {};
    state.tr.selector = tss_selector;
    state.tr.limit = 0x67;
    state.tr.attributes = attributes::TSS32_BUSY;
    state.gdtr.base = layout::low::gdt;
    state.gdtr.limit = layout::low::gdt_size - 1;
    state.idtr.base = 0;
    state.idtr.limit = 0;
    state.cr0 = x86::cr0::PE | x86::cr0::ET;
    return state;
}

}  // namespace

x86::CpuState long_mode_entry(std::uint64_t rip)
{
    x86::CpuState state = flat_state(rip, x86::segment_attributes::L);
    state.gpr[x86::RSP] = layout::low::stack_top;
    state.cr0 |= x86::cr0::PG;
    state.cr3 = layout::low::page_tables;
    state.cr4 = x86::cr4::PAE;
    state.efer = x86::efer::LME | x86::efer::LMA;
    return state;
}

x86::CpuState protected_mode_entry(std::uint32_t eip)
{
    return flat_state(eip, x86::segment_attributes::DB);
}

std::vector<std::byte> identity_page_tables()
{
    constexpr std::uint64_t present_writable = 0x3, large = 0x80;
    constexpr std::uint64_t pdpt = layout::low::page_tables + base::page_size;
    constexpr std::uint64_t directories = pdpt + base::page_size;
    std::vector<std::byte> tables(layout::low::page_tables_size);
    const auto put = [&](std::uint64_t gpa, std::uint64_t value) {
        base::store_le(tables.data() + (gpa - layout::low::page_tables), value);
    };
    put(layout::low::page_tables, pdpt | present_writable);
    for (std::uint64_t i = 0; i < 4; ++i) {
        put(pdpt + i * 8, (directories + i * base::page_size) | present_writable);
    }
    for (std::uint64_t i = 0; i < 2048; ++i) {
        put(directories + i * 8, (i << 21) | present_writable | large);
    }
    return tables;
}

std::vector<std::byte> boot_gdt(CodeWidth width)
{
    base::ByteWriter out;
    out.write<std::uint64_t>(0);
    out.write<std::uint64_t>(0);
    out.write<std::uint64_t>(width == CodeWidth::bits64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    out.write<std::uint64_t>(0x00cf93000000ffff);
    out.write<std::uint64_t>(0x00008b0000000067);
    out.write<std::uint64_t>(0);
    return out.take();
}

}  // namespace doppel::machine::boot
