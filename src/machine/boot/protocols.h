// The boot protocols behind plan_boot(), and what they share.
#pragma once

#include <optional>
#include <string>

#include "machine/boot/boot.h"
#include "machine/boot/placer.h"

namespace doppel::machine::boot {

// "--kernel FILE 'name': ...".
base::Error kernel_error(const BootRequest& request, std::string_view text);
base::Error initrd_error(const BootRequest& request, std::string_view text);

// Linux/x86 boot protocol, 64-bit or 32-bit entry (Documentation/arch/x86/boot.rst).
[[nodiscard]] bool is_bzimage(std::span<const std::byte> image);
base::Result<BootPlan> plan_bzimage(const BootRequest& request);

// Xen PVH (xen/include/public/arch-x86/hvm/start_info.h); `entry` is from the ELF note.
base::Result<BootPlan> plan_pvh(const BootRequest& request, std::uint64_t entry);

// Multiboot 0.6.96. Offset of a valid header in the image, if any.
std::optional<std::size_t> find_multiboot_header(std::span<const std::byte> image);
base::Result<BootPlan> plan_multiboot(const BootRequest& request, std::size_t header);

LoadSegment made_segment(std::uint64_t start, std::vector<std::byte> bytes);
// The command line with its final zero at layout::low::cmdline.
base::Result<LoadSegment> place_cmdline(Placer& placer, const std::string& text);

// 64-bit long mode, flat segments, identity-mapped by the tables of identity_page_tables().
x86::CpuState long_mode_entry(std::uint64_t rip);
// The first 4 GiB in 2 MiB pages, for layout::low::page_tables.
std::vector<std::byte> identity_page_tables();
// 32-bit protected mode, flat segments, paging off (PVH, multiboot, 32-bit Linux).
x86::CpuState protected_mode_entry(std::uint32_t eip);
// The table that an entry state's selectors refer to, for layout::low::gdt.
enum class CodeWidth { bits32, bits64 };
std::vector<std::byte> boot_gdt(CodeWidth width);

}  // namespace doppel::machine::boot
