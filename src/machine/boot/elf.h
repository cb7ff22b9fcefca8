// ELF32 and ELF64 executables for x86, as far as kernel loading needs them. Reads spans of
// bytes that nobody vouches for. System V ABI, chapters 4 and 5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "machine/boot/placer.h"

namespace doppel::machine::boot {

struct ElfSegment {
    std::uint64_t file_offset = 0;
    std::uint64_t file_size = 0;  // lies in the file, checked
    std::uint64_t virtual_address = 0;
    std::uint64_t physical_address = 0;
    std::uint64_t memory_size = 0;  // at least file_size, address + size does not wrap, checked
    bool executable = false;
};

struct ElfImage {
    bool is_64bit = false;
    std::uint64_t entry = 0;
    std::vector<ElfSegment> segments;        // PT_LOAD with memory_size not zero
    std::optional<std::uint64_t> pvh_entry;  // XEN_ELFNOTE_PHYS32_ENTRY
};

[[nodiscard]] bool is_elf(std::span<const std::byte> image);
// Errors say what is wrong with the image, without an option's name.
base::Result<ElfImage> parse_elf(std::span<const std::byte> image);

// Reserves every segment's memory; the end of the highest. Same kind of errors.
base::Result<std::uint64_t> reserve_segments(const ElfImage& elf, Placer& placer);

}  // namespace doppel::machine::boot
