// Xen's PVH entry: 32-bit protected mode with EBX at an hvm_start_info, version 1.
// xen/include/public/arch-x86/hvm/start_info.h, docs/misc/pvh.pandoc.
#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "machine/boot/elf.h"
#include "machine/boot/protocols.h"
#include "machine/layout.h"

namespace doppel::machine::boot {

namespace {

constexpr std::uint32_t start_info_magic = 0x336ec578;  // "xEn3" with bit 31 set
constexpr std::uint64_t start_info_size = 56, module_size = 32;

// start_info, then one module entry, then the memory map.
std::vector<std::byte> make_start_info(const BootRequest& request, std::uint64_t initrd_start)
{
    const bool has_module = request.initrd.has_value();
    const std::uint64_t modules = layout::low::boot_info + start_info_size;
    const std::uint64_t map = modules + (has_module ? module_size : 0);
    base::ByteWriter out;
    out.write<std::uint32_t>(start_info_magic);
    out.write<std::uint32_t>(1);  // version
    out.write<std::uint32_t>(0);  // flags
    out.write<std::uint32_t>(has_module ? 1 : 0);
    out.write<std::uint64_t>(has_module ? modules : 0);
    out.write<std::uint64_t>(layout::low::cmdline);
    out.write<std::uint64_t>(request.rsdp);
    out.write<std::uint64_t>(map);
    out.write(static_cast<std::uint32_t>(request.memory_map.size()));
    out.write<std::uint32_t>(0);
    if (has_module) {
        out.write<std::uint64_t>(initrd_start);
        out.write<std::uint64_t>(request.initrd->size());
        out.write<std::uint64_t>(0);  // no command line of its own
        out.write<std::uint64_t>(0);
    }
    for (const MemoryRange& range : request.memory_map) {
        out.write(range.start);
        out.write(range.size);
        out.write(static_cast<std::uint32_t>(range.type));
        out.write<std::uint32_t>(0);
    }
    return out.take();
}

}  // namespace

base::Result<BootPlan> plan_pvh(const BootRequest& request, std::uint64_t entry)
{
    const auto elf = TRY(parse_elf(request.kernel));
    const bool entry_loaded =
        std::any_of(elf.segments.begin(), elf.segments.end(), [entry](const ElfSegment& segment) {
            return entry - segment.physical_address < segment.memory_size;
        });
    if (!entry_loaded || entry > 0xffffffff) {
        return kernel_error(request, fmt::format("its PVH entry point {:#x} is in none of its "
                                                 "segments; the image is damaged",
                                                 entry));
    }

    Placer placer{request.memory_map};
    TRY(placer.reserve(layout::low::gdt, layout::low::gdt_size, "the GDT"));
    TRY(placer.reserve(layout::low::boot_info, layout::low::boot_info_size, "the start info"));
    BootPlan plan;
    plan.protocol = Protocol::pvh;
    plan.segments.push_back(TRY(place_cmdline(placer, request.cmdline)));
    const auto reserved = reserve_segments(elf, placer);
    if (!reserved) return kernel_error(request, reserved.error().text());

    std::uint64_t initrd_start = 0;
    if (request.initrd) {
        const auto place = placer.place_high(std::max<std::uint64_t>(request.initrd->size(), 1),
                                             base::page_size, layout::low_ram_end_max,
                                             "the initrd");
        if (!place || *place < layout::extended_start) {
            return initrd_error(request, fmt::format("{} bytes do not fit beside the kernel; give "
                                                     "more --memory",
                                                     request.initrd->size()));
        }
        initrd_start = *place;
        plan.segments.push_back({initrd_start, *request.initrd, {}});
    }
    for (const ElfSegment& segment : elf.segments) {
        plan.segments.push_back({segment.physical_address,
                                 request.kernel.subspan(segment.file_offset, segment.file_size),
                                 {}});
    }
    plan.segments.push_back(
        made_segment(layout::low::boot_info, make_start_info(request, initrd_start)));
    plan.segments.push_back(made_segment(layout::low::gdt, boot_gdt(CodeWidth::bits32)));
    plan.cpu = protected_mode_entry(static_cast<std::uint32_t>(entry));
    plan.cpu.gpr[x86::RBX] = layout::low::boot_info;
    return plan;
}

}  // namespace doppel::machine::boot
