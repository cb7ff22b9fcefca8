#include "machine/boot/placer.h"

#include <fmt/format.h>

#include <algorithm>

namespace doppel::machine::boot {

Placer::Placer(const MemoryMap& map)
{
    for (const MemoryRange& range : map) {
        if (range.type == MemoryType::usable) usable_.push_back(range);
    }
    std::sort(usable_.begin(), usable_.end(),
              [](const auto& a, const auto& b) { return a.start < b.start; });
}

void Placer::add(std::uint64_t start, std::uint64_t size, std::string_view what)
{
    if (size == 0) return;
    const auto at = std::upper_bound(used_.begin(), used_.end(), start,
                                     [](std::uint64_t s, const Used& u) { return s < u.start; });
    used_.insert(at, {start, start + size, std::string{what}});
}

base::Result<void> Placer::reserve(std::uint64_t start, std::uint64_t size, std::string_view what)
{
    if (size == 0) return {};
    const bool inside = std::any_of(usable_.begin(), usable_.end(), [&](const MemoryRange& range) {
        return start >= range.start && start < range.end() && size <= range.end() - start;
    });
    if (!inside) {
        return base::usage_error(fmt::format(
            "{} wants {} bytes at {:#x}, which is not all RAM: give more --memory or another image",
            what, size, start));
    }
    for (const Used& used : used_) {
        if (start < used.end && used.start < start + size) {
            return base::usage_error(
                fmt::format("{} ({:#x}-{:#x}) overlaps {} ({:#x}-{:#x}): link it elsewhere", what,
                            start, start + size, used.what, used.start, used.end));
        }
    }
    add(start, size, what);
    return {};
}

std::vector<Placer::Gap> Placer::gaps() const
{
    std::vector<Gap> result;
    for (const MemoryRange& range : usable_) {
        std::uint64_t at = range.start;
        for (const Used& used : used_) {
            if (used.end <= at || used.start >= range.end()) continue;
            if (used.start > at) result.push_back({at, used.start});
            at = used.end;
        }
        if (at < range.end()) result.push_back({at, range.end()});
    }
    return result;
}

bool Placer::fits(std::uint64_t start, std::uint64_t size) const
{
    const auto all = gaps();
    return std::any_of(all.begin(), all.end(), [&](const Gap& gap) {
        return start >= gap.start && start <= gap.end && size <= gap.end - start;
    });
}

std::optional<std::uint64_t> Placer::place_high(std::uint64_t size, std::uint64_t align,
                                                std::uint64_t end, std::string_view what)
{
    auto all = gaps();
    std::reverse(all.begin(), all.end());
    for (const Gap& gap : all) {
        const std::uint64_t limit = std::min(gap.end, end);
        if (limit < gap.start || limit - gap.start < size) continue;
        const std::uint64_t start = (limit - size) & ~(align - 1);
        if (start < gap.start) continue;
        add(start, size, what);
        return start;
    }
    return std::nullopt;
}

std::optional<std::uint64_t> Placer::place_low(std::uint64_t size, std::uint64_t align,
                                               std::uint64_t start, std::uint64_t end,
                                               std::string_view what)
{
    for (const Gap& gap : gaps()) {
        const std::uint64_t from = std::max(gap.start, start);
        const std::uint64_t at = (from + (align - 1)) & ~(align - 1);
        const std::uint64_t limit = std::min(gap.end, end);
        if (at < from || at > limit || limit - at < size) continue;
        add(at, size, what);
        return at;
    }
    return std::nullopt;
}

}  // namespace doppel::machine::boot
