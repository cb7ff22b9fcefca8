// How much can be mapped around a fault: reads the guest's page tables, changes nothing.
//
// A large leaf (2 MiB, 4 MiB, 1 GiB) is a run of its own and goes on over further leaves of
// its size that continue it physically. Around a page of 4 KiB the neighbours are worth
// separate mappings too, since a fault costs more than a mapping.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/translate/space/guest_pages.h"
#include "engine/translate/space/mapping_table.h"
#include "engine/translate/space/window.h"

namespace doppel::engine::translate {

class RunFinder {
public:
    // Host addresses without a hole.
    struct Region {
        std::uint64_t begin = 0, end = 0;
    };

    RunFinder(const WindowConfig& config, GuestPages& pages, const MappingTable& table);

    [[nodiscard]] const Region* region_of(std::uint64_t address) const;
    [[nodiscard]] const std::vector<Region>& regions() const { return regions_; }
    [[nodiscard]] std::uint64_t linear(std::uint64_t address) const { return address - config_.fold; }

    // The leaf that the page at a host address is in, as far as the region and the RAM slot
    // reach. piece: of the page.
    Mapping leaf(std::uint64_t page, const Region& region, const x86::Translation& translation,
                 const RamPiece& piece);
    // Grows a run of large leaves in both directions, up to what is mapped already.
    void extend(Mapping& run, const Region& region);
    // Grows a run of one 4 KiB page, and finds further ones near it: nearest first, at most
    // runs_max of them.
    void look_around(Mapping& run, const Region& region, std::vector<Mapping>& further);

    // What a leaf's mapping would have to show still is what it shows: the leaf at `address`,
    // which lies in the mapping, may stay.
    [[nodiscard]] bool still_valid(const Mapping& mapping, std::uint64_t address);
    // Host addresses of the leaf of this size around an address, within its region.
    [[nodiscard]] Region leaf_range(std::uint64_t address, std::uint64_t leaf_size,
                                    const Region& region) const;

    static constexpr std::size_t runs_max = 7;

private:
    enum class Direction : std::uint8_t { up, down };

    std::optional<x86::Translation> probe(std::uint64_t address);
    std::uint64_t first_of_slot(std::uint64_t page, std::uint64_t lowest,
                                const x86::Translation& translation, const RamPiece& piece);
    std::uint64_t room(const Mapping& run, const Region& region, Direction direction);
    bool append(Mapping& run, Direction direction);
    std::optional<Mapping> small_page(std::uint64_t address);
    void collect(const Region& region, Direction direction, Mapping& run,
                 std::vector<Mapping>& found);

    const WindowConfig& config_;
    GuestPages& pages_;
    const MappingTable& table_;
    std::vector<Region> regions_;
    std::vector<Mapping> above_, below_;
};

}  // namespace doppel::engine::translate
