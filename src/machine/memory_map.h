// What guests are told of memory: the E820 map (ACPI section 15).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace doppel::machine {

enum class MemoryType : std::uint32_t { usable = 1, reserved = 2, acpi = 3, nvs = 4 };

struct MemoryRange {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    MemoryType type = MemoryType::reserved;
    bool operator==(const MemoryRange&) const = default;
    [[nodiscard]] std::uint64_t end() const { return start + size; }
};

using MemoryMap = std::vector<MemoryRange>;

// Bytes of RAM that lie below the hole, and from 4 GiB on.
struct RamSplit {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
};
RamSplit split_ram(std::uint64_t ram_bytes);

// Where guests find memory that is a file: above all RAM, each from a whole GiB on, and in no
// memory map: their drivers tell them. The last one is the first address that is free.
std::vector<std::uint64_t> file_places(std::uint64_t ram_bytes,
                                       std::span<const std::uint64_t> file_sizes);

// Sorted, without overlaps. ram_bytes is at least layout::minimum_ram.
MemoryMap make_memory_map(std::uint64_t ram_bytes);

}  // namespace doppel::machine
