// Kernel images made by hand, small and valid, for tests to break.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "machine/boot/boot.h"
#include "machine/layout.h"

namespace doppel::machine::test {

using Bytes = std::vector<std::byte>;

template <typename T>
void put(Bytes& bytes, std::size_t at, T value)
{
    if (bytes.size() < at + sizeof(T)) bytes.resize(at + sizeof(T));
    base::store_le(bytes.data() + at, value);
}

inline Bytes bzimage(std::size_t payload = 0x8000, std::uint32_t init_size = 0x100000)
{
    Bytes image(2 * 512 + payload);
    put<std::uint8_t>(image, 0x1f1, 1);  // setup sectors
    put(image, 0x1f4, static_cast<std::uint32_t>(payload / 16));
    put<std::uint16_t>(image, 0x1fe, 0xaa55);
    put<std::uint8_t>(image, 0x201, 0x6a);  // header ends at 0x26c
    put<std::uint32_t>(image, 0x202, 0x53726448);
    put<std::uint16_t>(image, 0x206, 0x20f);
    put<std::uint8_t>(image, 0x211, 1);
    put<std::uint32_t>(image, 0x22c, 0x7fffffff);
    put<std::uint32_t>(image, 0x230, 0x200000);
    put<std::uint8_t>(image, 0x234, 1);
    put<std::uint16_t>(image, 0x236, 1);
    put<std::uint32_t>(image, 0x238, 2047);
    put<std::uint64_t>(image, 0x258, 0x1000000);
    put(image, 0x260, init_size);
    put<std::uint8_t>(image, 1024 + 0x200, 0xf4);
    return image;
}

// One loadable segment of 0x1000 bytes (0x2000 in memory) at `paddr`, and a PVH note.
inline Bytes elf64(bool with_note = true, std::uint64_t paddr = 0x100000)
{
    Bytes image(0x2000);
    std::memcpy(image.data(), "\x7f" "ELF\2\1\1", 7);
    put<std::uint16_t>(image, 16, 2);
    put<std::uint16_t>(image, 18, 62);
    put<std::uint32_t>(image, 20, 1);
    put<std::uint64_t>(image, 24, paddr);  // entry
    put<std::uint64_t>(image, 32, 64);     // program headers
    put<std::uint16_t>(image, 52, 64);
    put<std::uint16_t>(image, 54, 56);
    put<std::uint16_t>(image, 56, 2);
    put<std::uint32_t>(image, 64, 1);
    put<std::uint32_t>(image, 68, 5);
    put<std::uint64_t>(image, 72, 0x1000);
    put<std::uint64_t>(image, 80, 0xffffffff81000000);
    put<std::uint64_t>(image, 88, paddr);
    put<std::uint64_t>(image, 96, 0x1000);
    put<std::uint64_t>(image, 104, 0x2000);
    put<std::uint64_t>(image, 112, 0x1000);
    put<std::uint32_t>(image, 120, with_note ? 4 : 0);
    put<std::uint64_t>(image, 128, 0x200);
    put<std::uint64_t>(image, 152, 20);
    put<std::uint64_t>(image, 160, 20);
    put<std::uint64_t>(image, 168, 4);
    put<std::uint32_t>(image, 0x200, 4);
    put<std::uint32_t>(image, 0x204, 4);
    put<std::uint32_t>(image, 0x208, 18);
    std::memcpy(image.data() + 0x20c, "Xen", 4);
    put(image, 0x210, static_cast<std::uint32_t>(paddr + 0x10));
    return image;
}

inline void put_multiboot_header(Bytes& image, std::size_t at, std::uint32_t flags)
{
    put<std::uint32_t>(image, at, 0x1badb002);
    put(image, at + 4, flags);
    put(image, at + 8, 0u - 0x1badb002u - flags);
}

inline Bytes elf32(std::uint32_t paddr = 0x100000)
{
    Bytes image(0x2000);
    std::memcpy(image.data(), "\x7f" "ELF\1\1\1", 7);
    put<std::uint16_t>(image, 16, 2);
    put<std::uint16_t>(image, 18, 3);
    put<std::uint32_t>(image, 20, 1);
    put<std::uint32_t>(image, 24, 0xc0000020);  // entry, virtual
    put<std::uint32_t>(image, 28, 52);
    put<std::uint16_t>(image, 40, 52);
    put<std::uint16_t>(image, 42, 32);
    put<std::uint16_t>(image, 44, 1);
    put<std::uint32_t>(image, 52, 1);
    put<std::uint32_t>(image, 56, 0x1000);
    put<std::uint32_t>(image, 60, 0xc0000000);
    put(image, 64, paddr);
    put<std::uint32_t>(image, 68, 0x1000);
    put<std::uint32_t>(image, 72, 0x3000);
    put<std::uint32_t>(image, 76, 5);
    put_multiboot_header(image, 0x1000, 3);
    return image;
}

// A flat image at `load`, its header at file offset 0x40.
inline Bytes aout(std::uint32_t load = 0x100000)
{
    Bytes image(0x800);
    put_multiboot_header(image, 0x40, 0x10003);
    put(image, 0x40 + 12, load + 0x40);
    put(image, 0x40 + 16, load);
    put<std::uint32_t>(image, 0x40 + 20, 0);
    put(image, 0x40 + 24, load + 0x2000);
    put(image, 0x40 + 28, load + 0x80);
    return image;
}

inline boot::BootRequest request(const Bytes& kernel, std::uint64_t ram = 64 << 20)
{
    boot::BootRequest result;
    result.kernel = kernel;
    result.kernel_name = "kernel.img";
    result.initrd_name = "initrd.img";
    result.cmdline = "console=ttyS0";
    result.memory_map = make_memory_map(ram);
    result.rsdp = layout::acpi_start;
    return result;
}

inline const boot::LoadSegment* segment_at(const boot::BootPlan& plan, std::uint64_t start)
{
    for (const auto& segment : plan.segments) {
        if (segment.start == start) return &segment;
    }
    return nullptr;
}

inline std::string text_at(const boot::BootPlan& plan, std::uint64_t at)
{
    std::string text;
    for (const auto& segment : plan.segments) {
        if (at - segment.start >= segment.bytes().size()) continue;
        for (std::size_t i = at - segment.start; i < segment.bytes().size(); ++i) {
            if (segment.bytes()[i] == std::byte{0}) return text;
            text += static_cast<char>(segment.bytes()[i]);
        }
    }
    return text;
}

}  // namespace doppel::machine::test
