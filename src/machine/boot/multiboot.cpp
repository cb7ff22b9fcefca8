// Multiboot specification 0.6.96: header (section 3.1), machine state (3.2), information
// structure (3.3).
#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "machine/boot/elf.h"
#include "machine/boot/protocols.h"
#include "machine/layout.h"

namespace doppel::machine::boot {

namespace {

constexpr std::uint32_t header_magic = 0x1badb002, loader_magic = 0x2badb002;
constexpr std::size_t search_limit = 8192, header_size = 12, kludge_header_size = 32;

// Header flags. Bits 0-15 must be understood, 16-31 may be ignored.
constexpr std::uint32_t align_modules = 1u << 0, want_memory = 1u << 1, want_video = 1u << 2,
                        aout_kludge = 1u << 16;
constexpr std::uint32_t known_required = align_modules | want_memory;

// Information flags and layout.
constexpr std::uint32_t info_memory = 1u << 0, info_cmdline = 1u << 2, info_modules = 1u << 3,
                        info_memory_map = 1u << 6, info_loader_name = 1u << 9;
constexpr std::uint64_t info_size = 120, module_size = 16, map_entry_size = 24;

struct Image {
    std::vector<ElfSegment> segments;
    std::uint64_t entry = 0;
};

base::Result<Image> kludge_image(const BootRequest& request, std::size_t header)
{
    if (request.kernel.size() - header < kludge_header_size) {
        return kernel_error(request, "a truncated multiboot image; copy it again");
    }
    const auto field = [&](std::size_t at) {
        return std::uint64_t{base::load_le<std::uint32_t>(request.kernel.data() + header + at)};
    };
    const std::uint64_t header_address = field(12), load = field(16), load_end = field(20),
                        bss_end = field(24), entry = field(28);
    const auto bad = [&](std::string_view what) {
        return kernel_error(request, fmt::format("a multiboot image whose {}; it is damaged", what));
    };
    if (load > header_address || header_address - load > header) {
        return bad("load address does not match its header's place");
    }
    const std::uint64_t file_offset = header - (header_address - load);
    const std::uint64_t in_file = request.kernel.size() - file_offset;
    if (load_end != 0 && load_end < load) return bad("load end lies before its start");
    const std::uint64_t file_size = load_end == 0 ? in_file : load_end - load;
    if (file_size > in_file) {
        return kernel_error(request, fmt::format("a truncated multiboot image: {} bytes, its "
                                                 "header says {}; copy it again",
                                                 request.kernel.size(), file_offset + file_size));
    }
    if (bss_end != 0 && bss_end < load + file_size) return bad("bss ends before its data");
    const std::uint64_t memory_size = bss_end == 0 ? file_size : bss_end - load;
    if (memory_size == 0) return bad("segment is empty");
    Image image;
    image.segments.push_back({file_offset, file_size, load, load, memory_size, true});
    image.entry = entry;
    return image;
}

base::Result<Image> elf_image(const BootRequest& request)
{
    auto elf = parse_elf(request.kernel);
    if (!elf) return kernel_error(request, elf.error().text());
    if (elf->is_64bit) {
        return kernel_error(request, "a 64-bit ELF with a multiboot 1 header but without addresses "
                                     "in it (flag 16) or a PVH note; give a 32-bit ELF");
    }
    Image image;
    image.entry = elf->entry;
    // Kernels linked high give their entry as a virtual address.
    for (const ElfSegment& segment : elf->segments) {
        if (segment.executable && elf->entry - segment.virtual_address < segment.memory_size) {
            image.entry = elf->entry - segment.virtual_address + segment.physical_address;
            break;
        }
    }
    image.segments = std::move(elf->segments);
    return image;
}

// Text for the string area, with its final zero; the place it will have.
std::uint64_t add_string(base::ByteWriter& out, std::uint64_t start, std::string_view text)
{
    const std::uint64_t at = start + out.size();
    out.write_text(text);
    out.write<std::uint8_t>(0);
    return at;
}

std::vector<std::byte> make_info(const BootRequest& request, std::uint64_t initrd_start)
{
    const bool has_module = request.initrd.has_value();
    const std::uint64_t modules = layout::low::boot_info + info_size;
    const std::uint64_t map = modules + (has_module ? module_size : 0);
    const std::uint64_t map_size = request.memory_map.size() * map_entry_size;
    base::ByteWriter strings;
    const std::uint64_t strings_start = map + map_size;
    const auto loader_name =
        static_cast<std::uint32_t>(add_string(strings, strings_start, "doppel"));
    const auto module_text = static_cast<std::uint32_t>(
        add_string(strings, strings_start, request.initrd_name.substr(0, 1024)));

    // Upper memory: from 1 MiB to the first hole.
    std::uint64_t upper = 0;
    for (const MemoryRange& range : request.memory_map) {
        if (range.type == MemoryType::usable && range.start == layout::extended_start) {
            upper = range.size / layout::KiB;
        }
    }
    base::ByteWriter out;
    out.write(info_memory | info_cmdline | info_modules | info_memory_map | info_loader_name);
    out.write(static_cast<std::uint32_t>(layout::ebda_start / layout::KiB));
    out.write(static_cast<std::uint32_t>(upper));
    out.write<std::uint32_t>(0);  // boot device: none
    out.write(static_cast<std::uint32_t>(layout::low::cmdline));
    out.write<std::uint32_t>(has_module ? 1 : 0);
    out.write(static_cast<std::uint32_t>(modules));
    out.fill(16);  // no symbols
    out.write(static_cast<std::uint32_t>(map_size));
    out.write(static_cast<std::uint32_t>(map));
    out.fill(12);  // no drives, no configuration table
    out.write(loader_name);
    out.fill(info_size - out.size());
    if (has_module) {
        out.write(static_cast<std::uint32_t>(initrd_start));
        out.write(static_cast<std::uint32_t>(initrd_start + request.initrd->size()));
        out.write(module_text);
        out.write<std::uint32_t>(0);
    }
    for (const MemoryRange& range : request.memory_map) {
        out.write(static_cast<std::uint32_t>(map_entry_size - 4));  // size, itself excluded
        out.write(range.start);
        out.write(range.size);
        out.write(static_cast<std::uint32_t>(range.type));
    }
    out.write_bytes(strings.data());
    return out.take();
}

base::Result<Image> find_image(const BootRequest& request, std::size_t header)
{
    const auto flags = base::load_le<std::uint32_t>(request.kernel.data() + header + 4);
    if ((flags & want_video) != 0) {
        return kernel_error(request, "a multiboot image that requires a video mode (flag 2), and "
                                     "this machine has no display; build it without");
    }
    if ((flags & 0xffff & ~known_required) != 0) {
        return kernel_error(request, fmt::format("a multiboot image that requires features unknown "
                                                 "to multiboot 1 (flags {:#x}); build it without",
                                                 flags & 0xffff & ~known_required));
    }
    return (flags & aout_kludge) != 0 ? kludge_image(request, header) : elf_image(request);
}

}  // namespace

std::optional<std::size_t> find_multiboot_header(std::span<const std::byte> image)
{
    const std::size_t limit = std::min(image.size(), search_limit);
    for (std::size_t at = 0; at + header_size <= limit; at += 4) {
        if (base::load_le<std::uint32_t>(image.data() + at) != header_magic) continue;
        const auto flags = base::load_le<std::uint32_t>(image.data() + at + 4);
        const auto checksum = base::load_le<std::uint32_t>(image.data() + at + 8);
        if (header_magic + flags + checksum == 0) return at;
    }
    return std::nullopt;
}

base::Result<BootPlan> plan_multiboot(const BootRequest& request, std::size_t header)
{
    const Image image = TRY(find_image(request, header));
    const bool entry_loaded =
        std::any_of(image.segments.begin(), image.segments.end(), [&](const ElfSegment& segment) {
            return image.entry - segment.physical_address < segment.memory_size;
        });
    if (!entry_loaded || image.entry > 0xffffffff) {
        return kernel_error(request, fmt::format("its entry point {:#x} is in none of its "
                                                 "segments; the image is damaged",
                                                 image.entry));
    }

    Placer placer{request.memory_map};
    TRY(placer.reserve(layout::low::gdt, layout::low::gdt_size, "the GDT"));
    TRY(placer.reserve(layout::low::boot_info, layout::low::boot_info_size, "the boot information"));
    BootPlan plan;
    plan.protocol = Protocol::multiboot;
    const std::string cmdline = request.cmdline.empty()
                                    ? request.kernel_name
                                    : request.kernel_name + " " + request.cmdline;
    plan.segments.push_back(TRY(place_cmdline(placer, cmdline)));
    std::uint64_t kernel_end = layout::extended_start;
    for (const ElfSegment& segment : image.segments) {
        const auto reserved = placer.reserve(segment.physical_address, segment.memory_size,
                                             "the kernel's segment");
        if (!reserved) return kernel_error(request, reserved.error().text());
        kernel_end = std::max(kernel_end, segment.physical_address + segment.memory_size);
        plan.segments.push_back({segment.physical_address,
                                 request.kernel.subspan(segment.file_offset, segment.file_size),
                                 {}});
    }

    std::uint64_t initrd_start = 0;
    if (request.initrd) {
        // Right after the kernel: small kernels map little memory.
        const auto place = placer.place_low(std::max<std::uint64_t>(request.initrd->size(), 1),
                                            base::page_size, kernel_end, layout::low_ram_end_max,
                                            "the module");
        if (!place) {
            return initrd_error(request, fmt::format("{} bytes do not fit behind the kernel; give "
                                                     "more --memory",
                                                     request.initrd->size()));
        }
        initrd_start = *place;
        plan.segments.push_back({initrd_start, *request.initrd, {}});
    }
    std::vector<std::byte> info = make_info(request, initrd_start);
    ASSERT(info.size() <= layout::low::boot_info_size);
    plan.segments.push_back(made_segment(layout::low::boot_info, std::move(info)));
    plan.segments.push_back(made_segment(layout::low::gdt, boot_gdt(CodeWidth::bits32)));
    plan.cpu = protected_mode_entry(static_cast<std::uint32_t>(image.entry));
    plan.cpu.gpr[x86::RAX] = loader_magic;
    plan.cpu.gpr[x86::RBX] = layout::low::boot_info;
    return plan;
}

}  // namespace doppel::machine::boot
