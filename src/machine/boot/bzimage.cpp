// Linux/x86 boot protocol, 64-bit entry, or the 32-bit one of kernels without. Documentation/arch/x86/boot.rst and
// arch/x86/include/uapi/asm/bootparam.h; offsets below are of the zero page, which the
// image's setup header (0x1f1-) matches.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/bytes.h"
#include "machine/boot/protocols.h"
#include "machine/layout.h"

namespace doppel::machine::boot {

namespace {

namespace offset {
constexpr std::size_t acpi_rsdp_addr = 0x070, e820_entries = 0x1e8, setup_header = 0x1f1,
    setup_sects = 0x1f1, syssize = 0x1f4, vid_mode = 0x1fa, boot_flag = 0x1fe, jump = 0x200,
    magic = 0x202, version = 0x206, type_of_loader = 0x210, loadflags = 0x211,
    ramdisk_image = 0x218, ramdisk_size = 0x21c, cmd_line_ptr = 0x228, initrd_addr_max = 0x22c,
    kernel_alignment = 0x230, relocatable_kernel = 0x234, xloadflags = 0x236, cmdline_size = 0x238,
    pref_address = 0x258, init_size = 0x260, e820_table = 0x2d0;
}  // namespace offset

constexpr std::uint16_t boot_flag_value = 0xaa55;
constexpr std::uint32_t header_magic = 0x53726448;  // "HdrS"
constexpr std::uint16_t minimum_version = 0x020c;   // 2.12: xloadflags
constexpr std::uint8_t loaded_high = 1 << 0;
constexpr std::uint16_t xlf_kernel_64 = 1 << 0;
constexpr std::uint8_t loader_undefined = 0xff;
constexpr std::uint16_t video_normal = 0xffff;
constexpr std::size_t header_end_min = offset::init_size + 4;
constexpr std::size_t header_end_max = 0x290;  // edd_mbr_sig_buffer follows
constexpr std::size_t e820_entries_max = 128;
constexpr std::uint64_t entry_64 = 0x200;

struct Header {
    std::size_t end = 0;  // of the setup header in the image
    std::uint64_t payload = 0;  // file offset of the protected-mode code
    std::uint64_t payload_size = 0;
    std::uint64_t alignment = 0;
    std::uint64_t preferred = 0;
    std::uint64_t memory_size = 0;  // what the kernel uses from its load address on
    std::uint64_t initrd_end = 0;   // exclusive
    std::uint64_t cmdline_max = 0;  // without the final zero
    bool relocatable = false;
    bool has_entry_64 = false;
};

template <typename T>
T field(const BootRequest& request, std::size_t at)
{
    return base::load_le<T>(request.kernel.data() + at);
}

base::Result<Header> parse_header(const BootRequest& request)
{
    const std::uint64_t size = request.kernel.size();
    if (size < header_end_min) return kernel_error(request, "a truncated bzImage; copy it again");
    Header header;
    header.end = offset::magic + field<std::uint8_t>(request, offset::jump + 1);
    const auto version = field<std::uint16_t>(request, offset::version);
    if (version < minimum_version || header.end < header_end_min || header.end > header_end_max) {
        return kernel_error(request, fmt::format("a bzImage of boot protocol {}.{:02}; 2.12 is "
                                                 "needed, give a kernel newer than 3.8",
                                                 version >> 8, version & 0xff));
    }
    if ((field<std::uint8_t>(request, offset::loadflags) & loaded_high) == 0) {
        return kernel_error(request, "a zImage, which is for low memory; give a bzImage");
    }
    header.has_entry_64 = (field<std::uint16_t>(request, offset::xloadflags) & xlf_kernel_64) != 0;

    std::uint64_t sectors = field<std::uint8_t>(request, offset::setup_sects);
    if (sectors == 0) sectors = 4;
    header.payload = (sectors + 1) * 512;
    // Builds differ by one in how the last paragraph counts.
    const std::uint64_t expected = std::uint64_t{field<std::uint32_t>(request, offset::syssize)} * 16;
    if (size < header.end || size <= header.payload + entry_64 || size - header.payload + 15 < expected) {
        return kernel_error(request, fmt::format("a truncated bzImage: {} bytes, its header says "
                                                 "{}; copy it again",
                                                 size, header.payload + expected));
    }
    header.payload_size = size - header.payload;
    header.relocatable = field<std::uint8_t>(request, offset::relocatable_kernel) != 0;
    header.alignment = field<std::uint32_t>(request, offset::kernel_alignment);
    if (!std::has_single_bit(header.alignment)) header.alignment = 16 * layout::MiB;
    header.alignment = std::max(header.alignment, base::page_size);
    header.preferred = field<std::uint64_t>(request, offset::pref_address);
    if (header.preferred == 0) header.preferred = layout::extended_start;
    header.memory_size = std::max<std::uint64_t>(field<std::uint32_t>(request, offset::init_size),
                                                 header.payload_size);
    header.initrd_end = std::uint64_t{field<std::uint32_t>(request, offset::initrd_addr_max)} + 1;
    header.cmdline_max = field<std::uint32_t>(request, offset::cmdline_size);
    if (header.cmdline_max == 0) header.cmdline_max = 255;
    return header;
}

base::Result<std::uint64_t> place_kernel(const BootRequest& request, const Header& header,
                                         Placer& placer)
{
    constexpr std::string_view what = "the kernel";
    if (header.preferred >= layout::extended_start && header.preferred < layout::low_ram_end_max &&
        placer.fits(header.preferred, header.memory_size)) {
        TRY(placer.reserve(header.preferred, header.memory_size, what));
        return header.preferred;
    }
    if (header.relocatable) {
        const auto place = placer.place_low(header.memory_size, header.alignment,
                                            layout::extended_start, layout::low_ram_end_max, what);
        if (place) return *place;
    }
    return base::usage_error(
        fmt::format("--memory: too small for --kernel '{}', which needs {} MiB from {:#x} on; give "
                    "more",
                    request.kernel_name, (header.memory_size + layout::MiB - 1) / layout::MiB,
                    header.preferred));
}

LoadSegment make_zero_page(const BootRequest& request, const Header& header,
                           std::uint64_t initrd_start)
{
    LoadSegment page;
    page.start = layout::low::boot_params;
    page.made.resize(layout::low::boot_params_size);
    const auto put = [&page](std::size_t at, auto value) {
        base::store_le(page.made.data() + at, value);
    };
    const auto setup = request.kernel.subspan(offset::setup_header,
                                              header.end - offset::setup_header);
    std::copy(setup.begin(), setup.end(), page.made.begin() + offset::setup_header);
    put(offset::type_of_loader, loader_undefined);
    put(offset::vid_mode, video_normal);
    put(offset::cmd_line_ptr, static_cast<std::uint32_t>(layout::low::cmdline));
    put(offset::ramdisk_image, static_cast<std::uint32_t>(initrd_start));
    put(offset::ramdisk_size,
        static_cast<std::uint32_t>(request.initrd ? request.initrd->size() : 0));
    put(offset::acpi_rsdp_addr, request.rsdp);
    const std::size_t count = std::min(request.memory_map.size(), e820_entries_max);
    put(offset::e820_entries, static_cast<std::uint8_t>(count));
    for (std::size_t i = 0; i < count; ++i) {
        const MemoryRange& range = request.memory_map[i];
        put(offset::e820_table + i * 20, range.start);
        put(offset::e820_table + i * 20 + 8, range.size);
        put(offset::e820_table + i * 20 + 16, static_cast<std::uint32_t>(range.type));
    }
    return page;
}

}  // namespace

bool is_bzimage(std::span<const std::byte> image)
{
    return image.size() >= offset::version + 2 &&
           base::load_le<std::uint16_t>(image.data() + offset::boot_flag) == boot_flag_value &&
           base::load_le<std::uint32_t>(image.data() + offset::magic) == header_magic;
}

namespace {

void enter_64(BootPlan& plan, std::uint64_t kernel)
{
    plan.protocol = Protocol::linux64;
    plan.segments.push_back(made_segment(layout::low::gdt, boot_gdt(CodeWidth::bits64)));
    plan.segments.push_back(made_segment(layout::low::page_tables, identity_page_tables()));
    plan.cpu = long_mode_entry(kernel + entry_64);
}

void enter_32(BootPlan& plan, std::uint64_t kernel)
{
    plan.protocol = Protocol::linux32;
    plan.segments.push_back(made_segment(layout::low::gdt, boot_gdt(CodeWidth::bits32)));
    plan.cpu = protected_mode_entry(static_cast<std::uint32_t>(kernel));
}

}  // namespace

base::Result<BootPlan> plan_bzimage(const BootRequest& request)
{
    const Header header = TRY(parse_header(request));
    if (request.cmdline.size() > header.cmdline_max) {
        return base::usage_error(
            fmt::format("--cmdline: {} bytes long, this kernel takes {}; shorten it",
                        request.cmdline.size(), header.cmdline_max));
    }

    Placer placer{request.memory_map};
    TRY(placer.reserve(layout::low::gdt, layout::low::gdt_size, "the GDT"));
    TRY(placer.reserve(layout::low::boot_params, layout::low::boot_params_size, "boot_params"));
    TRY(placer.reserve(layout::low::page_tables, layout::low::page_tables_size, "page tables"));
    BootPlan plan;
    plan.segments.push_back(TRY(place_cmdline(placer, request.cmdline)));
    const std::uint64_t kernel = TRY(place_kernel(request, header, placer));

    std::uint64_t initrd_start = 0;
    if (request.initrd && !request.initrd->empty()) {
        const std::uint64_t end = std::min(header.initrd_end, layout::low_ram_end_max);
        const auto place =
            placer.place_high(request.initrd->size(), base::page_size, end, "the initrd");
        if (!place || *place < layout::extended_start) {
            return initrd_error(request, fmt::format("{} bytes do not fit beside the kernel; give "
                                                     "more --memory",
                                                     request.initrd->size()));
        }
        initrd_start = *place;
        plan.segments.push_back({initrd_start, *request.initrd, {}});
    }

    plan.segments.push_back({kernel, request.kernel.subspan(header.payload), {}});
    plan.segments.push_back(make_zero_page(request, header, initrd_start));
    if (header.has_entry_64) {
        enter_64(plan, kernel);
    } else {
        enter_32(plan, kernel);
    }
    plan.cpu.gpr[x86::RSI] = layout::low::boot_params;
    return plan;
}

}  // namespace doppel::machine::boot
