#include "engine/translate/cache/code_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/address.h"
#include "base/assert.h"
#include "engine/translate/layout.h"
#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate {

namespace {

// What a block may need at most: 64 instructions, each with its exit.
constexpr std::uint64_t block_max = 32 * 1024;
constexpr std::uint64_t entry_max = 96;
// A cache line of the host: with 16 the same block cost up to a sixth more, by where it came to lie.
constexpr std::uint64_t code_align = 64;

std::uint64_t page_of(std::uint64_t address) { return address & ~base::page_mask; }

std::uint64_t& second_key(std::uint64_t* table, unsigned index)
{
    return table[second_keys / sizeof *table + index];
}
std::uint64_t& second_host(std::uint64_t* table, unsigned index)
{
    return table[second_hosts / sizeof *table + index];
}

}  // namespace

CodeCache::CodeCache(const Config& config, const x86::CpuidPolicy& cpuid)
    : config_(config), cpuid_(cpuid)
{
    write_head();
    const std::uint64_t each = (config.size - head_size_) / regions & ~(code_align - 1);
    for (unsigned i = 0; i < regions; ++i) {
        Region& region = regions_[i];
        region.begin = head_size_ + i * each;
        region.size = each;
    }
}

// The code that empty table entries lead to.
void CodeCache::write_head()
{
    const CodeSpace head{config_.write, config_.address, base::page_size};
    const std::uint32_t size = emit_miss(head, config_.user, config_.common_exit);
    ASSERT(size != 0);
    head_size_ = base::page_size;
}

void CodeCache::add_targets(std::uint64_t* table)
{
    tables_.push_back({table, {}, {}});
    std::fill_n(table, target_count, miss());
    static_assert(second_unused(1) == 0 && second_unused(target_count - 1) == 0);
    second_key(table, 0) = second_unused(0);
}

CodeCache::Targets& CodeCache::targets(std::uint64_t* table)
{
    const auto found = std::find_if(tables_.begin(), tables_.end(),
                                    [table](const Targets& each) { return each.table == table; });
    ASSERT(found != tables_.end());
    return *found;
}

void CodeCache::clear_targets(std::uint64_t* table)
{
    Targets& used = targets(table);
    if (used.first.size() == target_count) {
        std::fill_n(table, target_count, miss());
    } else {
        for (const std::uint32_t index : used.first) table[index] = miss();
    }
    used.first.clear();
    for (const std::uint32_t index : used.second) second_key(table, index) = second_unused(index);
    used.second.clear();
}

void CodeCache::clear_targets(std::uint64_t* table, std::uint64_t linear_page)
{
    // A table index is the low 16 bits of RIP: those of one page are neighbours.
    std::fill_n(table + (linear_page & 0xf000), base::page_size, miss());
    std::erase_if(targets(table).second, [&](std::uint32_t index) {
        std::uint64_t& key = second_key(table, index);
        if (page_of(0 - key) != linear_page) return false;
        key = second_unused(index);
        return true;
    });
}

// ---- lookup ------------------------------------------------------------------------------------

std::size_t CodeCache::key(std::uint64_t ram_offset, std::uint64_t rip, Mode mode)
{
    return (ram_offset * 0x9e3779b97f4a7c15) ^ (rip >> 12) * 0xff51afd7ed558ccd ^ mode.key();
}

Block* CodeCache::find(std::uint64_t ram_offset, std::uint64_t rip, Mode mode) const
{
    const auto [first, last] = index_.equal_range(key(ram_offset, rip, mode));
    for (auto at = first; at != last; ++at) {
        Block& block = *at->second;
        if (block.ram_offset == ram_offset && block.rip == rip && block.mode == mode) return &block;
    }
    return nullptr;
}

Site CodeCache::site(std::uint32_t number) const
{
    const std::uint32_t region = number >> site_region_shift;
    const std::uint32_t index = number & ((1u << site_region_shift) - 1);
    if (region >= regions || index < first_exit_site) return {};
    const auto& sites = regions_[region].sites;
    if (index - first_exit_site >= sites.size()) return {};
    Block* block = sites[index - first_exit_site];
    if (block == nullptr || number - block->first_site >= block->exits.size()) return {};
    return {block, &block->exits[number - block->first_site]};
}

Block* CodeCache::block_at(std::uint64_t host) const
{
    if (!contains(host)) return nullptr;
    for (const Region& region : regions_) {
        if (host - config_.address - region.begin >= region.used) continue;
        auto at = std::upper_bound(region.blocks.begin(), region.blocks.end(), host,
                                   [](std::uint64_t value, const auto& block) { return value < block->host; });
        if (at == region.blocks.begin()) return nullptr;
        Block& block = **std::prev(at);
        return host - block.host < block.size ? &block : nullptr;
    }
    return nullptr;
}

// ---- adding --------------------------------------------------------------------------------------

void CodeCache::next_region()
{
    current_ = (current_ + 1) % regions;
    empty(regions_[current_]);
}

CodeSpace CodeCache::space(std::uint64_t need)
{
    if (regions_[current_].size - regions_[current_].used < need) next_region();
    Region& region = regions_[current_];
    const std::uint64_t at = region.begin + region.used;
    return {config_.write + at, config_.address + at, region.size - region.used};
}

// For any block and its entry, and for its exits' numbers.
CodeSpace CodeCache::space_for_block()
{
    constexpr std::size_t exits_max = 1024;
    if (regions_[current_].sites.size() + exits_max >= (1u << site_region_shift)) next_region();
    return space(block_max + entry_max);
}

Block& CodeCache::add(const Source& source, std::uint64_t ram_offset, std::uint64_t second_page,
                      bool target)
{
    CodeSpace where = space_for_block();
    const std::uint32_t first_site = next_site();
    std::uint32_t entry_size = 0;
    if (target) {
        entry_size = emit_entry(where, config_.user, source.rip, 0, miss());
        ASSERT(entry_size != 0);
        where = {where.write + entry_size, where.address + entry_size, where.capacity - entry_size};
    }
    const bool fits = translate(source, cpuid_, where, first_site, config_.common_exit, scratch_);
    ASSERT(fits && scratch_.size <= where.capacity);

    auto owned = std::make_unique<Block>();
    Block& block = *owned;
    block.rip = source.rip;
    block.ram_offset = ram_offset;
    block.guest_bytes = scratch_.guest_bytes;
    block.branch_rsp = scratch_.branch_rsp;
    block.guest_count = static_cast<std::uint16_t>(scratch_.count);
    block.mode = source.mode;
    block.host = where.address;
    block.size = scratch_.size;
    block.first_site = first_site;
    block.points = scratch_.points;
    block.displaced = scratch_.displaced;
    block.exits = scratch_.exits;
    block.through_table = scratch_.through_table;
    block.movable = scratch_.movable;
    block.relocations = scratch_.relocations;
    if (block.guest_bytes > source.own_bytes) block.second_page = second_page;
    ++counters_.blocks;
    counters_.guest_instructions += scratch_.count;
    return keep(std::move(owned), entry_size);
}

// In the current region, its code written there behind its entry, if that has a size.
Block& CodeCache::keep(std::unique_ptr<Block> owned, std::uint32_t entry_size)
{
    Region& region = regions_[current_];
    Block& block = *owned;
    region.sites.insert(region.sites.end(), block.exits.size(), &block);
    if (entry_size != 0) {
        block.entry = block.host - entry_size;
        region.entries.emplace(block.entry, &block);
        ++counters_.entries;
    }
    region.used += (entry_size + block.size + code_align - 1) & ~(code_align - 1);
    region.blocks.push_back(std::move(owned));
    index_.emplace(key(block.ram_offset, block.rip, block.mode), &block);
    pages_[page_of(block.ram_offset)].push_back(&block);
    if (block.second_page != Block::no_page) pages_[block.second_page].push_back(&block);
    counters_.host_bytes += block.size;
    return block;
}

std::uint32_t CodeCache::next_site() const
{
    return static_cast<std::uint32_t>((current_ << site_region_shift) +
                                      regions_[current_].sites.size() + first_exit_site);
}

// ---- links -----------------------------------------------------------------------------------------

void CodeCache::patch(const Block& block, const Exit& exit, std::uint64_t to)
{
    const std::uint64_t from = block.host + exit.patch + 4;
    put(block, exit.patch, static_cast<std::uint32_t>(to - from));
}

void CodeCache::put(const Block& block, std::uint32_t offset, std::uint32_t value)
{
    std::memcpy(config_.write + (block.host - config_.address) + offset, &value, sizeof value);
}

void CodeCache::link(const Site& from, Block& to)
{
    if (from.exit->patch == 0 || from.block->dropped || to.dropped) return;
    const auto number = from.block->first_site +
                        static_cast<std::uint32_t>(from.exit - from.block->exits.data());
    patch(*from.block, *from.exit, to.host + to.through_table);
    to.incoming.push_back(number);
    ++counters_.links;
}

bool CodeCache::learn(const Site& from, Block& to)
{
    Block& block = *from.block;
    if (block.dropped || to.dropped) return false;
    // Of the branch's exits only the first has no jump of its own.
    auto first = static_cast<std::size_t>(from.exit - block.exits.data());
    while (block.exits[first].patch != 0) --first;
    const bool near = page_of(block.rip) == page_of(to.rip) &&
                      page_of(block.ram_offset) == page_of(to.ram_offset) &&
                      to.second_page == Block::no_page && block.mode == to.mode;
    std::uint64_t before = page_of(block.rip);
    for (std::size_t i = first + 1; near && i <= first + learned_targets; ++i) {
        Exit& each = block.exits[i];
        if (each.kind == ExitKind::indirect) {
            each.kind = ExitKind::direct;
            each.target = to.rip;
            put(block, each.compare, static_cast<std::uint32_t>(before - to.rip));
            link({&block, &each}, to);
            return true;
        }
        before = each.target;
    }
    const std::uint64_t at = block.host + block.exits[first].compare;
    const CodeSpace where{config_.write + (at - config_.address), at, entry_max};
    const std::uint32_t size = emit_table_jump(where);
    ASSERT(size != 0);
    block.table_jump = block.exits[first].compare;
    return false;
}

void CodeCache::enter_target(std::uint64_t* table, Block& block)
{
    if (block.dropped) return;
    if (block.entry == 0) {
        // The block may lie in an older region: its entry lives and dies with the block.
        const CodeSpace where = space(entry_max);
        if (block.dropped) return;  // making room dropped it
        const std::uint32_t size = emit_entry(where, config_.user, block.rip, block.host, miss());
        ASSERT(size != 0);
        block.entry = where.address;
        Region& region = regions_[current_];
        region.used += (size + code_align - 1) & ~(code_align - 1);
        region.entries.emplace(where.address, &block);
        ++counters_.entries;
    }
    put_target(targets(table), block);
}

void CodeCache::enter_page(std::uint64_t* table, std::uint64_t linear_page, Mode mode,
                           const PageOf& ram_page_of)
{
    const auto at = pages_.find(ram_page_of(linear_page));
    if (at == pages_.end()) return;
    Targets& used = targets(table);
    for (const Block* block : at->second) {
        if (block->entry == 0 || block->mode != mode) continue;
        const std::uint64_t page = page_of(block->rip);
        if (page != linear_page && page + base::page_size != linear_page) continue;
        if (ram_page_of(page) != page_of(block->ram_offset)) continue;
        if (block->second_page != Block::no_page &&
            ram_page_of(page + base::page_size) != block->second_page) {
            continue;
        }
        put_target(used, *block);
    }
}

void CodeCache::put_target(Targets& used, const Block& block)
{
    std::uint64_t* const table = used.table;
    const auto first = static_cast<std::uint32_t>(block.rip & (target_count - 1));
    if (table[first] == miss() && used.first.size() < target_count) used.first.push_back(first);
    table[first] = block.entry;
    // Another block's entry may have lain there, or may come to: the second table has both.
    const unsigned index = second_index(block.rip);
    std::uint64_t& key = second_key(table, index);
    if (key == second_unused(index)) used.second.push_back(index);
    key = 0 - block.rip;
    second_host(table, index) = block.host;
}

// ---- dropping ----------------------------------------------------------------------------------------

void CodeCache::drop(Block& block)
{
    if (block.dropped) return;
    block.dropped = true;
    ++counters_.dropped_blocks;
    for (const std::uint32_t number : block.incoming) {
        const Site from = site(number);
        if (from.block != nullptr) patch(*from.block, *from.exit, from.block->host + from.exit->stub);
    }
    block.incoming.clear();
    // Its own jumps stay: nobody enters it any more, and a vCPU that is inside leaves by them
    // no further than to the engine.
    for (const Exit& exit : block.exits) {
        if (exit.patch != 0) patch(block, exit, block.host + exit.stub);
    }
    if (block.entry != 0) forget_entry(block);
    const auto [first, last] = index_.equal_range(key(block.ram_offset, block.rip, block.mode));
    for (auto at = first; at != last; ++at) {
        if (at->second != &block) continue;
        index_.erase(at);
        break;
    }
}

void CodeCache::forget_entry(const Block& block)
{
    const std::uint64_t first = block.rip & (target_count - 1);
    const unsigned second = second_index(block.rip);
    for (Targets& each : tables_) {
        if (each.first.empty()) continue;
        if (each.table[first] == block.entry) each.table[first] = miss();
        std::uint64_t& key = second_key(each.table, second);
        if (key != 0 - block.rip || second_host(each.table, second) != block.host) continue;
        key = second_unused(second);
        std::erase(each.second, second);
    }
}

void CodeCache::drop_page(std::uint64_t ram_page)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    for (Block* block : at->second) drop(*block);
    pages_.erase(at);
    ++counters_.dropped_pages;
}

void CodeCache::drop_page_at(std::uint64_t ram_page, std::uint64_t linear_page)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    std::erase_if(at->second, [&](Block* block) {
        const std::uint64_t first = page_of(block->rip);
        const bool from_first = page_of(block->ram_offset) == ram_page && first == linear_page;
        const bool from_second =
            block->second_page == ram_page && first + base::page_size == linear_page;
        if (!from_first && !from_second) return false;
        drop(*block);
        return true;
    });
    if (at->second.empty()) pages_.erase(at);
}

void CodeCache::forget_page(std::uint64_t ram_page, Block& block)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    std::erase(at->second, &block);
    if (at->second.empty()) pages_.erase(at);
}

void CodeCache::empty(Region& region)
{
    if (region.used == 0) return;
    ++counters_.emptied_regions;
    // Entries of blocks of other regions that were put here.
    for (auto& [address, block] : region.entries) {
        forget_entry(*block);
        block->entry = 0;
    }
    region.entries.clear();
    for (auto& block : region.blocks) {
        forget_incoming(*block);
        if (block->entry != 0) {
            for (Region& other : regions_) other.entries.erase(block->entry);
        }
        forget_page(page_of(block->ram_offset), *block);
        if (block->second_page != Block::no_page) forget_page(block->second_page, *block);
        drop(*block);
    }
    retired_ = std::exchange(region.blocks, {});
    region.sites.clear();
    region.used = 0;
}

// The block's sites are about to be reused: nobody may remember them.
void CodeCache::forget_incoming(Block& from)
{
    for (const Exit& exit : from.exits) {
        if (exit.patch == 0) continue;
        const auto number = from.first_site + static_cast<std::uint32_t>(&exit - from.exits.data());
        std::int32_t displacement = 0;
        std::memcpy(&displacement, config_.write + (from.host - config_.address) + exit.patch,
                    sizeof displacement);
        Block* to = block_at(from.host + exit.patch + 4 + static_cast<std::uint64_t>(std::int64_t{displacement}));
        if (to != nullptr && to != &from) std::erase(to->incoming, number);
        if (to == &from && displacement != 0) std::erase(from.incoming, number);
    }
}

}  // namespace doppel::engine::translate
