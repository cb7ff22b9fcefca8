#include "engine/translate/space/run_finder.h"

#include <algorithm>

#include "x86/canonical.h"

namespace doppel::engine::translate {

namespace {

using base::page_size;

using x86::canonical;

// `low` ends where `high` begins, in every respect but the size of the run.
bool joins(const Mapping& low, const Mapping& high)
{
    return low.end == high.begin && low.gpa + low.length() == high.gpa &&
           low.ram + low.length() == high.ram && low.leaf_size == high.leaf_size &&
           low.writable == high.writable && low.global == high.global;
}

bool join(Mapping& run, const Mapping& next)
{
    if (joins(run, next)) {
        run.end = next.end;
        return true;
    }
    if (joins(next, run)) {
        run.begin = next.begin;
        run.gpa = next.gpa;
        run.ram = next.ram;
        return true;
    }
    return false;
}

// [begin, end) without the holes.
std::vector<RunFinder::Region> regions_of(const WindowConfig& config)
{
    auto holes = config.holes;
    std::sort(holes.begin(), holes.end(),
              [](const auto& left, const auto& right) { return left.begin < right.begin; });
    std::vector<RunFinder::Region> regions;
    std::uint64_t at = config.begin;
    const auto add = [&](std::uint64_t end) {
        end = std::min(end, config.end) & ~base::page_mask;
        at = (at + base::page_mask) & ~base::page_mask;
        if (at < end) regions.push_back({at, end});
    };
    for (const auto& hole : holes) {
        if (hole.begin >= hole.end) continue;
        add(hole.begin);
        at = std::max(at, hole.end);
    }
    add(config.end);
    return regions;
}

}  // namespace

RunFinder::RunFinder(const WindowConfig& config, GuestPages& pages, const MappingTable& table)
    : config_(config), pages_(pages), table_(table), regions_(regions_of(config))
{
}

const RunFinder::Region* RunFinder::region_of(std::uint64_t address) const
{
    for (const Region& region : regions_) {
        if (address >= region.begin && address < region.end) {
            return canonical(linear(address)) ? &region : nullptr;
        }
    }
    return nullptr;
}

RunFinder::Region RunFinder::leaf_range(std::uint64_t address, std::uint64_t leaf_size,
                                        const Region& region) const
{
    // By distances: the sums may wrap around where a leaf reaches over the region's ends.
    const std::uint64_t before = linear(address) & (leaf_size - 1);
    const std::uint64_t after = leaf_size - before;
    return {address - std::min(before, address - region.begin),
            address + std::min(after, region.end - address)};
}

Mapping RunFinder::leaf(std::uint64_t page, const Region& region,
                        const x86::Translation& translation, const RamPiece& piece)
{
    Mapping mapping;
    mapping.leaf_size = translation.page_size;
    mapping.global = translation.global;
    mapping.writable = translation.writable && translation.dirty && !piece.read_only;
    if (translation.page_size == page_size) {
        mapping.begin = page;
        mapping.end = page + page_size;
        mapping.writable = mapping.writable && !pages_.holds_code(piece.offset);
    } else {
        const Region range = leaf_range(page, translation.page_size, region);
        mapping.begin = first_of_slot(page, range.begin, translation, piece);
        mapping.end = std::min(range.end, page + piece.length);
        mapping.partial = mapping.length() != translation.page_size;
    }
    mapping.ram = piece.offset - (page - mapping.begin);
    mapping.gpa = (translation.gpa.value & ~base::page_mask) - (page - mapping.begin);
    return mapping;
}

// The lowest address down to `lowest` from which RAM goes on without a break up to `page`.
std::uint64_t RunFinder::first_of_slot(std::uint64_t page, std::uint64_t lowest,
                                       const x86::Translation& translation, const RamPiece& piece)
{
    const std::uint64_t gpa = translation.gpa.value & ~base::page_mask;
    const auto in_slot = [&](std::uint64_t address) {
        const std::uint64_t distance = page - address;
        const auto there = pages_.ram(base::Gpa{gpa - distance});
        return there && there->offset + distance == piece.offset &&
               there->length == piece.length + distance;
    };
    if (in_slot(lowest)) return lowest;
    std::uint64_t outside = lowest;
    std::uint64_t inside = page;
    while (inside - outside > page_size) {
        const std::uint64_t middle = outside + ((inside - outside) / 2 & ~base::page_mask);
        (in_slot(middle) ? inside : outside) = middle;
    }
    return inside;
}

std::optional<x86::Translation> RunFinder::probe(std::uint64_t address)
{
    if (!canonical(linear(address))) return std::nullopt;
    const auto result = pages_.probe(linear(address), x86::Access::read, config_.user);
    const auto* translation = std::get_if<x86::Translation>(&result);
    if (translation == nullptr || !translation->accessed) return std::nullopt;
    return *translation;
}

bool RunFinder::still_valid(const Mapping& mapping, std::uint64_t address)
{
    const auto now = probe(address);
    return now && now->page_size == mapping.leaf_size && now->global == mapping.global &&
           now->gpa.value == mapping.gpa + (address - mapping.begin) &&
           (!mapping.writable || (now->writable && now->dirty));
}

// Bytes that the run may grow by.
std::uint64_t RunFinder::room(const Mapping& run, const Region& region, Direction direction)
{
    const std::uint64_t by_size = config_.run_max > run.length() ? config_.run_max - run.length() : 0;
    if (direction == Direction::up) {
        const Mapping* next = table_.first_above(run.end);
        const std::uint64_t end = next == nullptr ? region.end : std::min(next->begin, region.end);
        return end <= run.end ? 0 : std::min(by_size, end - run.end);
    }
    const Mapping* previous = table_.last_below(run.begin);
    const std::uint64_t begin =
        previous == nullptr ? region.begin : std::max(previous->end, region.begin);
    return begin >= run.begin ? 0 : std::min(by_size, run.begin - begin);
}

// The next leaf in that direction, if it makes the run longer.
bool RunFinder::append(Mapping& run, Direction direction)
{
    const std::uint64_t size = run.leaf_size;
    Mapping next;
    next.begin = direction == Direction::up ? run.end : run.begin - size;
    next.end = next.begin + size;
    const auto translation = probe(next.begin);
    if (!translation || translation->page_size != size) return false;
    const auto piece = pages_.ram(translation->gpa);
    if (!piece || piece->length < size) return false;
    next.gpa = translation->gpa.value;
    next.ram = piece->offset;
    next.leaf_size = size;
    next.global = translation->global;
    next.writable = translation->writable && translation->dirty && !piece->read_only;
    return join(run, next);
}

void RunFinder::extend(Mapping& run, const Region& region)
{
    if (run.partial) return;
    for (const Direction direction : {Direction::up, Direction::down}) {
        for (std::uint64_t rest = room(run, region, direction); rest >= run.leaf_size;
             rest -= run.leaf_size) {
            if (!append(run, direction)) break;
        }
    }
}

std::optional<Mapping> RunFinder::small_page(std::uint64_t address)
{
    const auto translation = probe(address);
    if (!translation || translation->page_size != page_size) return std::nullopt;
    const auto piece = pages_.ram(translation->gpa);
    if (!piece) return std::nullopt;
    Mapping page;
    page.begin = address;
    page.end = address + page_size;
    page.gpa = translation->gpa.value;
    page.ram = piece->offset;
    page.leaf_size = page_size;
    page.global = translation->global;
    page.writable = translation->writable && translation->dirty && !piece->read_only &&
                    !pages_.holds_code(piece->offset);
    return page;
}

// Runs in one direction, nearest first; what continues `run` itself goes into it.
void RunFinder::collect(const Region& region, Direction direction, Mapping& run,
                        std::vector<Mapping>& found)
{
    found.clear();
    const bool up = direction == Direction::up;
    const std::uint64_t available = up ? region.end - run.end : run.begin - region.begin;
    const std::uint64_t count = std::min<std::uint64_t>(config_.neighbours, available / page_size);
    std::uint64_t address = up ? run.end : run.begin - page_size;
    const Mapping* mapped = up ? table_.first_above(address) : table_.last_below(run.begin);
    for (std::uint64_t i = 0; i < count; ++i, address += up ? page_size : 0 - page_size) {
        // The nearest mapping ahead: asked for again once it is passed.
        if (mapped != nullptr && address >= mapped->begin && address < mapped->end) continue;
        if (mapped != nullptr && (up ? address >= mapped->end : address < mapped->begin)) {
            mapped = up ? table_.first_above(address) : table_.last_below(address + page_size);
            if (mapped != nullptr && address >= mapped->begin && address < mapped->end) continue;
        }
        const auto page = small_page(address);
        if (!page) continue;
        if (!join(found.empty() ? run : found.back(), *page)) {
            if (found.size() == runs_max) return;
            found.push_back(*page);
        }
    }
}

void RunFinder::look_around(Mapping& run, const Region& region, std::vector<Mapping>& further)
{
    collect(region, Direction::up, run, above_);
    collect(region, Direction::down, run, below_);
    further.clear();
    for (std::size_t i = 0; i < std::max(above_.size(), below_.size()); ++i) {
        if (i < above_.size() && further.size() < runs_max) further.push_back(above_[i]);
        if (i < below_.size() && further.size() < runs_max) further.push_back(below_[i]);
    }
}

}  // namespace doppel::engine::translate
