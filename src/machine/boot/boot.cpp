#include "machine/boot/boot.h"

#include <fmt/format.h>

#include "machine/boot/elf.h"
#include "machine/boot/protocols.h"
#include "machine/layout.h"

namespace doppel::machine::boot {

std::string_view name(Protocol protocol)
{
    switch (protocol) {
    case Protocol::linux64: return "Linux 64-bit boot protocol";
    case Protocol::linux32: return "Linux 32-bit boot protocol";
    case Protocol::pvh: return "PVH";
    case Protocol::multiboot: return "multiboot 1";
    }
    return "unknown";
}

base::Error kernel_error(const BootRequest& request, std::string_view text)
{
    return base::usage_error(fmt::format("--kernel '{}': {}", request.kernel_name, text));
}

base::Error initrd_error(const BootRequest& request, std::string_view text)
{
    return base::usage_error(fmt::format("--initrd '{}': {}", request.initrd_name, text));
}

LoadSegment made_segment(std::uint64_t start, std::vector<std::byte> bytes)
{
    LoadSegment segment;
    segment.start = start;
    segment.made = std::move(bytes);
    return segment;
}

base::Result<LoadSegment> place_cmdline(Placer& placer, const std::string& text)
{
    if (text.find('\0') != std::string::npos) {
        return base::usage_error("--cmdline: contains a zero byte; remove it");
    }
    if (text.size() >= layout::low::cmdline_size_max) {
        return base::usage_error(fmt::format("--cmdline: {} bytes long, the limit is {}; shorten it",
                                             text.size(), layout::low::cmdline_size_max - 1));
    }
    TRY(placer.reserve(layout::low::cmdline, text.size() + 1, "the command line"));
    const auto bytes = std::as_bytes(std::span{text.c_str(), text.size() + 1});
    return made_segment(layout::low::cmdline, {bytes.begin(), bytes.end()});
}

base::Result<BootPlan> plan_boot(const BootRequest& request)
{
    const auto image = request.kernel;
    if (image.empty()) return kernel_error(request, "the file is empty; give a kernel image");
    if (is_bzimage(image)) return plan_bzimage(request);

    const auto multiboot = find_multiboot_header(image);
    if (is_elf(image)) {
        const auto elf = parse_elf(image);
        if (!elf) return kernel_error(request, elf.error().text());
        if (elf->pvh_entry) return plan_pvh(request, *elf->pvh_entry);
        if (multiboot) return plan_multiboot(request, *multiboot);
        return kernel_error(
            request, elf->is_64bit
                         ? "a 64-bit ELF without a PVH note; give a bzImage, or build the kernel "
                           "with CONFIG_PVH=y"
                         : "a 32-bit ELF without a PVH note or a multiboot 1 header; give a "
                           "bzImage or an image with one of those");
    }
    if (multiboot) return plan_multiboot(request, *multiboot);
    return kernel_error(request,
                        "neither a bzImage, an ELF with a PVH note nor a multiboot 1 image; give "
                        "one of those");
}

base::Result<void> load(const BootPlan& plan, memory::GuestMemory& memory)
{
    for (const LoadSegment& segment : plan.segments) {
        if (!memory.load(base::Gpa{segment.start}, segment.bytes())) {
            return base::host_error(fmt::format(
                "Guest memory at {:#x} ({} bytes) is not the RAM that the boot was planned for",
                segment.start, segment.bytes().size()));
        }
    }
    return {};
}

}  // namespace doppel::machine::boot
