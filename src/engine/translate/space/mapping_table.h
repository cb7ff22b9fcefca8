// The records of a window: which host addresses show which RAM, by address and by RAM page.
//
//   by address: ordered, disjoint        by RAM: buckets of 256 KiB, 4 MiB, ... of RAM
//   ├─ 0x1000..0x3000 ─▶ RAM 0x8000      a mapping is in the one or two buckets (of the
//   ├─ 0x3000..0x4000 ─▶ RAM 0x2000      smallest size that holds its length) that it
//   └─ ...                               touches, so that a page is found by four lookups
//
// Mappings of equal kind that continue each other are one. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

namespace doppel::engine::translate {

struct Mapping {
    std::uint64_t begin = 0, end = 0;  // host addresses
    std::uint64_t ram = 0;             // offset of the RAM shown at begin
    std::uint64_t gpa = 0;             // guest-physical address of begin
    std::uint64_t leaf_size = 0;       // of every guest leaf in it
    bool writable = false;             // but for pages that are protected
    bool global = false;
    bool partial = false;              // shows a part of a leaf only

    [[nodiscard]] std::uint64_t length() const { return end - begin; }
};

class MappingTable {
public:
    using Handle = std::uint32_t;

    // The mapping that covers the address, or nullptr. Valid until the next change.
    [[nodiscard]] const Mapping* find(std::uint64_t address) const;
    // The first mapping that ends above the address, or nullptr.
    [[nodiscard]] const Mapping* first_above(std::uint64_t address) const;
    // The last mapping that begins below the address, or nullptr.
    [[nodiscard]] const Mapping* last_below(std::uint64_t address) const;

    // Overlaps no other. May become a part of a neighbour, up to `length_max` bytes.
    void insert(Mapping mapping, std::uint64_t length_max);
    // Forgets the addresses; what reaches outside stays.
    void erase(std::uint64_t begin, std::uint64_t end);
    void clear();

    [[nodiscard]] const std::vector<Handle>& of_kind(bool global) const { return kinds_[global]; }
    [[nodiscard]] const Mapping& get(Handle handle) const { return slots_[handle].mapping; }

    // Host addresses that show the RAM page, of writable mappings.
    void writable_views(std::uint64_t ram_page, std::vector<std::uint64_t>& addresses) const;

    [[nodiscard]] std::uint64_t size() const { return by_address_.size(); }
    [[nodiscard]] bool any_partial() const { return partial_ != 0; }

private:
    struct Slot {
        Mapping mapping;
        std::uint32_t place = 0;  // in kinds_
    };
    using ByAddress = std::map<std::uint64_t, Handle>;

    static constexpr unsigned lowest_shift = 18, shift_step = 4, levels = 4;
    static unsigned level_of(std::uint64_t length);
    static std::uint64_t bucket_of(unsigned level, std::uint64_t ram);

    void add(const Mapping& mapping);
    void remove(ByAddress::iterator at);
    template <typename Visit>
    static void for_each_bucket(const Mapping& mapping, Visit&& visit);

    ByAddress by_address_;
    std::vector<Slot> slots_;
    std::vector<Handle> free_;
    std::array<std::vector<Handle>, 2> kinds_;  // index: global
    std::unordered_map<std::uint64_t, std::vector<Handle>> by_ram_;
    std::uint64_t partial_ = 0;
};

}  // namespace doppel::engine::translate
