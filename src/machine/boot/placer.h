// Keeps account of guest memory while a boot is planned: every piece that a loader wants
// to write is reserved here first, so that nothing overlaps and nothing leaves RAM.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "machine/memory_map.h"

namespace doppel::machine::boot {

class Placer {
public:
    explicit Placer(const MemoryMap& map);

    // [start, start+size) for `what`. A usage error, without an option's name, unless all
    // of it is usable RAM and still free. Size 0 reserves nothing and always works.
    base::Result<void> reserve(std::uint64_t start, std::uint64_t size, std::string_view what);

    // Reserves the highest free place whose end is at most `end`; nullopt: none. `align` is
    // a power of two.
    std::optional<std::uint64_t> place_high(std::uint64_t size, std::uint64_t align,
                                            std::uint64_t end, std::string_view what);
    // Reserves the lowest free place at or above `start` whose end is at most `end`.
    std::optional<std::uint64_t> place_low(std::uint64_t size, std::uint64_t align,
                                           std::uint64_t start, std::uint64_t end,
                                           std::string_view what);

    // Whether [start, start+size) is usable and free.
    [[nodiscard]] bool fits(std::uint64_t start, std::uint64_t size) const;

private:
    struct Used {
        std::uint64_t start;
        std::uint64_t end;
        std::string what;
    };
    struct Gap {
        std::uint64_t start;
        std::uint64_t end;
    };
    [[nodiscard]] std::vector<Gap> gaps() const;  // ascending
    void add(std::uint64_t start, std::uint64_t size, std::string_view what);

    std::vector<MemoryRange> usable_;  // ascending
    std::vector<Used> used_;           // ascending
};

}  // namespace doppel::machine::boot
