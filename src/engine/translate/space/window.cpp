#include "engine/translate/space/window.h"

#include <algorithm>
#include <set>
#include <utility>

#include "engine/translate/space/mapping_table.h"
#include "engine/translate/space/run_finder.h"

namespace doppel::engine::translate {

using base::page_size;
using Region = RunFinder::Region;

// Rule of all of it: the record says at least what the host shows. So a mapping is recorded
// when it is made and forgotten before it is dropped, and when the host refuses to drop or to
// protect one, everything is dropped at once, which needs no memory of the host.
struct Window::Impl {
    Impl(WindowConfig window_config, GuestPages& guest_pages, HostMapper& host_mapper)
        : config(std::move(window_config)), pages(guest_pages), mapper(host_mapper),
          finder(config, pages, table)
    {
    }

    Fill fill(std::uint64_t address, bool write, Around around);
    void flush(bool keep_global);
    void flush_page(std::uint64_t linear);
    void clear(bool unmap);
    void protect(std::uint64_t ram_page);
    [[nodiscard]] std::uint64_t mappings() const { return table.size() + 2 * read_only.size(); }

    const WindowConfig config;
    x86::Fault fault;
    Counters counters;

private:
    bool lift_protection(std::uint64_t page, const x86::Translation& translation);
    Fill map_around(std::uint64_t page, const Region& region, const x86::Translation& translation,
                    const RamPiece& piece, Around around);
    void find_code(Mapping& run, std::uint64_t page);
    bool show(const Mapping& run);
    bool show_or_start_over(const Mapping& run);
    bool make_room(const Mapping& run);
    void collect_stale(const Mapping& mapping);
    void collect_partial_leaves(std::uint64_t address);
    void collect_leaf(const Mapping& mapping, std::uint64_t address);
    void drop_stale();
    void forget(std::uint64_t begin, std::uint64_t end);
    bool drop_everything();
    [[nodiscard]] Region leaf_in(const Mapping& mapping, std::uint64_t address) const;

    GuestPages& pages;
    HostMapper& mapper;
    MappingTable table;
    RunFinder finder;
    std::set<std::uint64_t> read_only;  // host pages without write rights in writable mappings
    bool must_drop = false;             // the host shows what is not recorded
    // Scratch of one call, kept for their memory.
    std::vector<Mapping> further;
    std::vector<Region> code_holes, stale;
    std::vector<std::uint64_t> views;
};

// ---- filling ---------------------------------------------------------------------------------

Window::Fill Window::Impl::fill(std::uint64_t address, bool write, Around around)
{
    ++counters.fills;
    if (must_drop && !drop_everything()) return Fill::unmappable;
    const Region* region = finder.region_of(address);
    if (region == nullptr) return Fill::unmappable;
    const auto access = write ? x86::Access::write : x86::Access::read;
    const auto result = pages.walk(finder.linear(address), access, config.user);
    if (const auto* found = std::get_if<x86::Fault>(&result)) {
        fault = *found;
        return Fill::fault;
    }
    const auto& translation = std::get<x86::Translation>(result);
    const auto piece = pages.ram(base::Gpa{translation.gpa.value & ~base::page_mask});
    if (!piece) return Fill::device;
    if (write && piece->read_only) return Fill::unmappable;
    if (write && pages.holds_code(piece->offset)) return Fill::code;

    const std::uint64_t page = address & ~base::page_mask;
    if (write && lift_protection(page, translation)) return Fill::mapped;
    return map_around(page, *region, translation, *piece, around);
}

// A page that held code, in a mapping that is right otherwise.
bool Window::Impl::lift_protection(std::uint64_t page, const x86::Translation& translation)
{
    const auto found = read_only.find(page);
    if (found == read_only.end()) return false;
    const Mapping* mapping = table.find(page);
    const std::uint64_t gpa = translation.gpa.value & ~base::page_mask;
    if (mapping == nullptr || mapping->gpa + (page - mapping->begin) != gpa ||
        mapping->leaf_size != translation.page_size || mapping->global != translation.global) {
        return false;
    }
    // Refused: mapped anew, like any other page.
    if (!mapper.protect(page, page_size, true)) return false;
    read_only.erase(found);
    ++counters.upgrades;
    return true;
}

Window::Fill Window::Impl::map_around(std::uint64_t page, const Region& region,
                                      const x86::Translation& translation, const RamPiece& piece,
                                      Around around)
{
    if (mappings() > config.mappings_max) {
        ++counters.overflows;
        if (!drop_everything()) return Fill::unmappable;
    }
    Mapping run = finder.leaf(page, region, translation, piece);
    further.clear();
    code_holes.clear();
    if (run.leaf_size == page_size) {
        if (around == Around::neighbours) finder.look_around(run, region, further);
    } else {
        finder.extend(run, region);
        if (run.writable) find_code(run, page);
    }
    const Mapping* old = table.find(page);
    if (old != nullptr && !old->writable && run.writable) ++counters.upgrades;
    if (!show_or_start_over(run)) return Fill::unmappable;
    for (const Mapping& neighbour : further) {
        if (show(neighbour)) continue;
        return drop_everything() && show(run) ? Fill::mapped : Fill::unmappable;
    }
    return Fill::mapped;
}

// The pages of a writable run that hold code, as ranges of host addresses. A run with so many
// of them that the host's limit on mappings is near is not worth it: then only the page.
void Window::Impl::find_code(Mapping& run, std::uint64_t page)
{
    const std::uint64_t end = run.ram + run.length();
    for (std::uint64_t at = pages.next_code_page(run.ram, end); at < end;
         at = pages.next_code_page(at + page_size, end)) {
        const std::uint64_t host = run.begin + (at - run.ram);
        if (!code_holes.empty() && code_holes.back().end == host) {
            code_holes.back().end += page_size;
            continue;
        }
        code_holes.push_back({host, host + page_size});
        if (4 * code_holes.size() <= config.mappings_max) continue;
        code_holes.clear();
        const std::uint64_t before = page - run.begin;
        run.begin = page;
        run.end = page + page_size;
        run.ram += before;
        run.gpa += before;
        run.partial = true;
        run.writable = !pages.holds_code(run.ram);
        return;
    }
}

// Maps a run, in place of whatever is there; false: the host refused, and what it shows in
// that range is unknown.
bool Window::Impl::show(const Mapping& run)
{
    if (!make_room(run)) return false;
    if (!mapper.map(run.begin, run.length(), run.ram, run.writable)) return false;
    table.insert(run, config.run_max);
    for (const Region& hole : code_holes) {
        if (!mapper.protect(hole.begin, hole.end - hole.begin, false)) return false;
        for (std::uint64_t at = hole.begin; at < hole.end; at += page_size) read_only.insert(at);
    }
    counters.pages += std::max<std::uint64_t>(run.length() / run.leaf_size, 1);
    return true;
}

bool Window::Impl::show_or_start_over(const Mapping& run)
{
    if (show(run)) return true;
    if (!drop_everything()) return false;
    if (show(run)) return true;
    drop_everything();
    return false;
}

// What is recorded in the run's range is replaced by it. A leaf that reaches out of the range
// goes as a whole: it is recorded, and flushed, in whole leaves only.
bool Window::Impl::make_room(const Mapping& run)
{
    const auto unmap = [this](std::uint64_t begin, std::uint64_t end) {
        if (begin >= end) return true;
        forget(begin, end);
        return mapper.unmap(begin, end - begin);
    };
    if (const Mapping* first = table.find(run.begin)) {
        if (!unmap(leaf_in(*first, run.begin).begin, run.begin)) return false;
    }
    if (const Mapping* last = table.find(run.end - page_size)) {
        if (!unmap(run.end, leaf_in(*last, run.end - page_size).end)) return false;
    }
    forget(run.begin, run.end);
    return true;
}

// ---- flushing --------------------------------------------------------------------------------

void Window::Impl::flush(bool keep_global)
{
    ++counters.flushes;
    stale.clear();
    for (const MappingTable::Handle handle : table.of_kind(false)) collect_stale(table.get(handle));
    if (!keep_global) {
        for (const MappingTable::Handle handle : table.of_kind(true)) {
            collect_stale(table.get(handle));
        }
    }
    drop_stale();
}

void Window::Impl::flush_page(std::uint64_t linear)
{
    ++counters.page_flushes;
    const std::uint64_t address = (linear + config.fold) & ~base::page_mask;
    stale.clear();
    if (const Mapping* mapping = table.find(address)) {
        collect_leaf(*mapping, leaf_in(*mapping, address).begin);
    }
    if (table.any_partial()) collect_partial_leaves(address);
    drop_stale();
}

void Window::Impl::collect_stale(const Mapping& mapping)
{
    if (mapping.partial) {
        collect_leaf(mapping, mapping.begin);
        return;
    }
    for (std::uint64_t at = mapping.begin; at < mapping.end; at += mapping.leaf_size) {
        collect_leaf(mapping, at);
    }
}

// Mappings of other parts of the large leaf that the address lies in.
void Window::Impl::collect_partial_leaves(std::uint64_t address)
{
    constexpr std::uint64_t largest = std::uint64_t{1} << 30;
    const std::uint64_t end = address + largest;
    const Mapping* mapping = table.first_above(address < largest ? 0 : address - largest);
    for (; mapping != nullptr && mapping->begin < end; mapping = table.first_above(mapping->end)) {
        const std::uint64_t mask = ~(mapping->leaf_size - 1);
        const bool same_leaf =
            (finder.linear(mapping->begin) & mask) == (finder.linear(address) & mask);
        if (mapping->partial && same_leaf) collect_leaf(*mapping, mapping->begin);
    }
}

// address: where the mapping's part of the leaf begins.
void Window::Impl::collect_leaf(const Mapping& mapping, std::uint64_t address)
{
    if (finder.still_valid(mapping, address)) {
        ++counters.revalidated;
        return;
    }
    ++counters.dropped;
    const Region leaf = leaf_in(mapping, address);
    if (!stale.empty() && stale.back().end == leaf.begin) {
        stale.back().end = leaf.end;
    } else {
        stale.push_back(leaf);
    }
}

// With one call for ranges between which nothing is mapped.
void Window::Impl::drop_stale()
{
    if (stale.empty()) return;
    std::sort(stale.begin(), stale.end(),
              [](const Region& left, const Region& right) { return left.begin < right.begin; });
    for (const Region& range : stale) forget(range.begin, range.end);
    std::size_t i = 0;
    while (i < stale.size()) {
        const std::uint64_t begin = stale[i].begin;
        std::uint64_t end = stale[i].end;
        const Region* region = finder.region_of(begin);
        const Mapping* next = table.first_above(begin);
        std::uint64_t limit = region == nullptr ? end : region->end;
        if (next != nullptr) limit = std::min(limit, next->begin);
        for (++i; i < stale.size() && stale[i].end <= limit; ++i) end = std::max(end, stale[i].end);
        if (!mapper.unmap(begin, end - begin)) {
            drop_everything();
            return;
        }
    }
}

// ---- the rest --------------------------------------------------------------------------------

void Window::Impl::protect(std::uint64_t ram_page)
{
    views.clear();
    table.writable_views(ram_page, views);
    for (const std::uint64_t page : views) {
        if (read_only.contains(page)) continue;
        if (mapper.protect(page, page_size, false)) {
            read_only.insert(page);
            continue;
        }
        // No mapping left to split off: it goes instead, with its leaf.
        const Region leaf = leaf_in(*table.find(page), page);
        forget(leaf.begin, leaf.end);
        if (!mapper.unmap(leaf.begin, leaf.end - leaf.begin)) {
            drop_everything();
            return;
        }
    }
}

void Window::Impl::forget(std::uint64_t begin, std::uint64_t end)
{
    table.erase(begin, end);
    if (read_only.empty()) return;
    read_only.erase(read_only.lower_bound(begin), read_only.lower_bound(end));
}

void Window::Impl::clear(bool unmap)
{
    table.clear();
    read_only.clear();
    must_drop = false;
    if (unmap) drop_everything();
}

bool Window::Impl::drop_everything()
{
    table.clear();
    read_only.clear();
    must_drop = false;
    for (const Region& region : finder.regions()) {
        if (!mapper.unmap(region.begin, region.end - region.begin)) must_drop = true;
    }
    return !must_drop;
}

// The mapping's part of the leaf that the address lies in.
Region Window::Impl::leaf_in(const Mapping& mapping, std::uint64_t address) const
{
    if (mapping.partial) return {mapping.begin, mapping.end};
    const std::uint64_t begin = address - (address - mapping.begin) % mapping.leaf_size;
    return {begin, begin + mapping.leaf_size};
}

// ---- the interface ---------------------------------------------------------------------------

Window::Window(WindowConfig config, GuestPages& pages, HostMapper& mapper)
    : impl_(std::make_unique<Impl>(std::move(config), pages, mapper))
{
}

Window::~Window() = default;

Window::Fill Window::fill(std::uint64_t address, bool write, Around around)
{
    return impl_->fill(address, write, around);
}
const x86::Fault& Window::fault() const { return impl_->fault; }
std::uint64_t Window::linear(std::uint64_t address) const { return address - impl_->config.fold; }
void Window::flush(bool keep_global) { impl_->flush(keep_global); }
void Window::flush_page(std::uint64_t linear) { impl_->flush_page(linear); }
void Window::clear(bool unmap) { impl_->clear(unmap); }

void Window::protect(std::uint64_t ram_offset)
{
    impl_->protect(ram_offset & ~base::page_mask);
}

const Window::Counters& Window::counters() const { return impl_->counters; }
std::uint64_t Window::mappings() const { return impl_->mappings(); }

}  // namespace doppel::engine::translate
