#include "machine/memory_map.h"

#include <algorithm>

#include "machine/layout.h"

namespace doppel::machine {

RamSplit split_ram(std::uint64_t ram_bytes)
{
    const std::uint64_t low = std::min(ram_bytes, layout::low_ram_end_max);
    return {low, ram_bytes - low};
}

std::vector<std::uint64_t> file_places(std::uint64_t ram_bytes,
                                       std::span<const std::uint64_t> file_sizes)
{
    constexpr std::uint64_t alignment = layout::GiB;
    std::vector<std::uint64_t> places{layout::high_ram_start + split_ram(ram_bytes).high};
    for (const std::uint64_t size : file_sizes) {
        places.back() = (places.back() + alignment - 1) & ~(alignment - 1);
        places.push_back(places.back() + size);
    }
    return places;
}

MemoryMap make_memory_map(std::uint64_t ram_bytes)
{
    const RamSplit ram = split_ram(ram_bytes);
    MemoryMap map;
    map.push_back({0, layout::ebda_start, MemoryType::usable});
    map.push_back({layout::ebda_start, layout::video_start - layout::ebda_start,
                   MemoryType::reserved});
    map.push_back({layout::bios_start, layout::extended_start - layout::bios_start,
                   MemoryType::reserved});
    if (ram.low > layout::extended_start) {
        map.push_back({layout::extended_start, ram.low - layout::extended_start,
                       MemoryType::usable});
    }
    // Linux trusts MCFG only when the window is reserved here or by a PNP0C02 device.
    map.push_back({layout::ecam_start, layout::ecam_size, MemoryType::reserved});
    if (ram.high != 0) map.push_back({layout::high_ram_start, ram.high, MemoryType::usable});
    return map;
}

}  // namespace doppel::machine
