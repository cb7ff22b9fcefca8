#include "engine/translate/space/mapping_table.h"

#include <algorithm>

#include "base/address.h"

namespace doppel::engine::translate {

namespace {

// One mapping that shows what the two show: same kind, and the second goes on where the first
// ends. Partial ones stay alone: they are looked for by their leaf.
bool continues(const Mapping& first, const Mapping& second)
{
    return first.end == second.begin && first.ram + first.length() == second.ram &&
           first.gpa + first.length() == second.gpa && first.leaf_size == second.leaf_size &&
           first.writable == second.writable && first.global == second.global &&
           !first.partial && !second.partial;
}

}  // namespace

const Mapping* MappingTable::find(std::uint64_t address) const
{
    const auto after = by_address_.upper_bound(address);
    if (after == by_address_.begin()) return nullptr;
    const Mapping& mapping = get(std::prev(after)->second);
    return address < mapping.end ? &mapping : nullptr;
}

const Mapping* MappingTable::first_above(std::uint64_t address) const
{
    const auto after = by_address_.upper_bound(address);
    if (after != by_address_.begin()) {
        const Mapping& mapping = get(std::prev(after)->second);
        if (address < mapping.end) return &mapping;
    }
    return after == by_address_.end() ? nullptr : &get(after->second);
}

const Mapping* MappingTable::last_below(std::uint64_t address) const
{
    const auto after = by_address_.lower_bound(address);
    return after == by_address_.begin() ? nullptr : &get(std::prev(after)->second);
}

void MappingTable::insert(Mapping mapping, std::uint64_t length_max)
{
    auto after = by_address_.lower_bound(mapping.begin);
    if (after != by_address_.end()) {
        const Mapping& right = get(after->second);
        if (continues(mapping, right) && mapping.length() + right.length() <= length_max) {
            mapping.end = right.end;
            const auto gone = after++;
            remove(gone);
        }
    }
    if (after != by_address_.begin()) {
        const auto before = std::prev(after);
        const Mapping& left = get(before->second);
        if (continues(left, mapping) && mapping.length() + left.length() <= length_max) {
            mapping.begin = left.begin;
            mapping.ram = left.ram;
            mapping.gpa = left.gpa;
            remove(before);
        }
    }
    add(mapping);
}

void MappingTable::erase(std::uint64_t begin, std::uint64_t end)
{
    auto at = by_address_.upper_bound(begin);
    if (at != by_address_.begin() && get(std::prev(at)->second).end > begin) --at;
    while (at != by_address_.end() && at->first < end) {
        const Mapping old = get(at->second);
        const auto gone = at++;
        remove(gone);
        if (old.begin < begin) {
            Mapping left = old;
            left.end = begin;
            add(left);
        }
        if (old.end > end) {
            Mapping right = old;
            right.begin = end;
            right.ram += end - old.begin;
            right.gpa += end - old.begin;
            add(right);
        }
    }
}

void MappingTable::clear()
{
    by_address_.clear();
    slots_.clear();
    free_.clear();
    for (auto& kind : kinds_) kind.clear();
    by_ram_.clear();
    partial_ = 0;
}

void MappingTable::writable_views(std::uint64_t ram_page, std::vector<std::uint64_t>& addresses) const
{
    for (unsigned level = 0; level < levels; ++level) {
        const auto bucket = by_ram_.find(bucket_of(level, ram_page));
        if (bucket == by_ram_.end()) continue;
        for (const Handle handle : bucket->second) {
            const Mapping& mapping = get(handle);
            if (!mapping.writable || ram_page - mapping.ram >= mapping.length()) continue;
            addresses.push_back(mapping.begin + (ram_page - mapping.ram));
        }
    }
}

unsigned MappingTable::level_of(std::uint64_t length)
{
    unsigned level = 0;
    while (level + 1 < levels && length > std::uint64_t{1} << (lowest_shift + level * shift_step)) {
        ++level;
    }
    return level;
}

std::uint64_t MappingTable::bucket_of(unsigned level, std::uint64_t ram)
{
    return (ram >> (lowest_shift + level * shift_step)) * levels + level;
}

template <typename Visit>
void MappingTable::for_each_bucket(const Mapping& mapping, Visit&& visit)
{
    const unsigned level = level_of(mapping.length());
    const std::uint64_t last = bucket_of(level, mapping.ram + mapping.length() - 1);
    for (std::uint64_t bucket = bucket_of(level, mapping.ram); bucket <= last; bucket += levels) {
        visit(bucket);
    }
}

void MappingTable::add(const Mapping& mapping)
{
    Handle handle;
    if (free_.empty()) {
        handle = static_cast<Handle>(slots_.size());
        slots_.emplace_back();
    } else {
        handle = free_.back();
        free_.pop_back();
    }
    auto& kind = kinds_[mapping.global];
    slots_[handle] = {mapping, static_cast<std::uint32_t>(kind.size())};
    kind.push_back(handle);
    by_address_.emplace(mapping.begin, handle);
    for_each_bucket(mapping, [&](std::uint64_t bucket) { by_ram_[bucket].push_back(handle); });
    partial_ += mapping.partial ? 1 : 0;
}

void MappingTable::remove(ByAddress::iterator at)
{
    const Handle handle = at->second;
    const Slot& slot = slots_[handle];
    by_address_.erase(at);
    for_each_bucket(slot.mapping, [&](std::uint64_t bucket) {
        const auto found = by_ram_.find(bucket);
        auto& handles = found->second;
        *std::find(handles.begin(), handles.end(), handle) = handles.back();
        handles.pop_back();
        if (handles.empty()) by_ram_.erase(found);
    });
    auto& kind = kinds_[slot.mapping.global];
    slots_[kind.back()].place = slot.place;
    kind[slot.place] = kind.back();
    kind.pop_back();
    partial_ -= slot.mapping.partial ? 1 : 0;
    free_.push_back(handle);
}

}  // namespace doppel::engine::translate
