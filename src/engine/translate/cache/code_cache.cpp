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
constexpr std::uint64_t block_max = 24 * 1024, cold_max = 8 * 1024;
constexpr std::uint64_t entry_max = 96;
// Less than a cache line of the host, with which a small loop may cost a sixth less: what runs lies
// closer together, and large programs gain more by that.
constexpr std::uint64_t code_align = 16;
// Of a region, so much is for what is run: as much as it takes of the bytes.
constexpr std::uint64_t hot_share = 10, hot_share_of = 16;

// `difference` is the constant of the comparison. RCX has 32 bits in 32-bit code.
bool learnable(const Block& from, const Block& to, std::uint64_t difference)
{
    const std::int64_t narrow = static_cast<std::int32_t>(difference);
    return narrow == static_cast<std::int64_t>(difference) &&
           (!from.mode.code32 || to.rip >= page_of(from.rip));
}

}  // namespace

CodeCache::CodeCache(const Config& config, const x86::CpuidPolicy& cpuid)
    : config_(config), cpuid_(cpuid), prepared_(config.size / large_page + 1)
{
    write_head();
    const std::uint64_t each = (config.size - head_size_) / regions & ~(code_align - 1);
    for (unsigned i = 0; i < regions; ++i) {
        Region& region = regions_[i];
        region.begin = head_size_ + i * each;
        region.size = each / hot_share_of * hot_share & ~(code_align - 1);
        region.cold_begin = region.begin + region.size;
        region.cold_size = each - region.size;
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
    if (block == nullptr || number - block->first.site >= block->exits.size()) return {};
    return {block, &block->exits[number - block->first.site]};
}

Block* CodeCache::block_at(std::uint64_t host) const
{
    if (!contains(host)) return nullptr;
    for (const Region& region : regions_) {
        const std::uint64_t offset = host - config_.address;
        const bool cold = offset - region.cold_begin < region.cold_used;
        if (!cold && offset - region.begin >= region.used) continue;
        auto at = std::upper_bound(region.blocks.begin(), region.blocks.end(), host,
                                   [cold](std::uint64_t value, const auto& block) {
                                       return value < block->host + (cold ? block->cold : 0);
                                   });
        if (at == region.blocks.begin()) return nullptr;
        Block& block = **std::prev(at);
        return block.has(host) ? &block : nullptr;
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
    const Region& current = regions_[current_];
    if (current.size - current.used < need || current.cold_size - current.cold_used < cold_max) {
        next_region();
    }
    const Region& region = regions_[current_];
    const std::uint64_t at = region.begin + region.used;
    const std::uint64_t cold = region.cold_begin + region.cold_used;
    prepare(at, need);
    return {config_.write + at, config_.address + at, region.size - region.used,
            static_cast<std::uint32_t>(cold - at),
            static_cast<std::uint32_t>(region.cold_size - region.cold_used)};
}

void CodeCache::prepare(std::uint64_t begin, std::uint64_t size)
{
    if (config_.prepare == nullptr) return;
    for (std::uint64_t at = begin / large_page; at <= (begin + size - 1) / large_page; ++at) {
        if (prepared_[at]) continue;
        prepared_[at] = true;
        config_.prepare(config_.write + at * large_page);
    }
}

// The same without its first bytes.
CodeSpace CodeCache::behind(const CodeSpace& space, std::uint32_t bytes)
{
    return {space.write + bytes, space.address + bytes, space.capacity - bytes, space.cold - bytes,
            space.cold_capacity};
}

// For any block and its entry, and for its exits' numbers and cells.
CodeSpace CodeCache::space_for_block()
{
    constexpr std::size_t exits_max = 1024;
    const Region& region = regions_[current_];
    if (region.sites.size() + exits_max >= (1u << site_region_shift) ||
        region.cells + exits_max >= region_cells) {
        next_region();
    }
    return space(block_max + entry_max);
}

Block& CodeCache::add(const Source& source, std::uint64_t ram_offset, std::uint64_t second_page,
                      bool target)
{
    CodeSpace where = space_for_block();
    const Numbers first = next_numbers();
    std::uint32_t entry_size = 0;
    if (target) {
        entry_size = emit_entry(where, config_.user, source.rip, 0, miss());
        ASSERT(entry_size != 0);
        where = behind(where, entry_size);
    }
    const bool fits = translate(source, cpuid_, where, first, config_.common_exit, scratch_);
    ASSERT(fits);

    auto owned = std::make_unique<Block>();
    Block& block = *owned;
    block.rip = source.rip;
    block.ram_offset = ram_offset;
    block.guest_bytes = scratch_.guest_bytes;
    block.branch_rsp = scratch_.branch_rsp;
    block.guest_count = static_cast<std::uint16_t>(scratch_.count);
    block.mode = source.mode;
    block.host = where.address;
    block.hot_size = scratch_.hot_size;
    block.cold = scratch_.cold;
    block.cold_size = scratch_.size - scratch_.hot_size;
    block.first = first;
    block.points = scratch_.points;
    block.displaced = scratch_.displaced;
    block.exits = scratch_.exits;
    block.cells.resize(scratch_.cells);
    block.by_cell = scratch_.by_cell;
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
    region.cells += static_cast<std::uint32_t>(block.cells.size());
    if (entry_size != 0) {
        block.entry = block.host - entry_size;
        region.entries.emplace(block.entry, &block);
        ++counters_.entries;
    }
    region.used += (entry_size + block.hot_size + code_align - 1) & ~(code_align - 1);
    region.cold_used += block.cold_size;
    region.blocks.push_back(std::move(owned));
    index_.emplace(key(block.ram_offset, block.rip, block.mode), &block);
    Page& page = pages_[page_of(block.ram_offset)];
    page.blocks.push_back(&block);
    for (Space space = 0; space < spaces_.size(); ++space) {
        if (page.ready[space]) reset_cells(block, spaces_[space]);
    }
    if (block.second_page != Block::no_page) pages_[block.second_page].blocks.push_back(&block);
    counters_.host_bytes += block.hot_size;
    counters_.cold_bytes += block.cold_size;
    return block;
}

Numbers CodeCache::next_numbers() const
{
    const Region& region = regions_[current_];
    return {static_cast<std::uint32_t>((current_ << site_region_shift) + region.sites.size() +
                                       first_exit_site),
            current_ * region_cells + region.cells};
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

std::uint64_t CodeCache::leads_to(const Block& block, const Exit& exit) const
{
    std::int32_t displacement = 0;
    std::memcpy(&displacement, config_.write + (block.host - config_.address) + exit.patch,
                sizeof displacement);
    return block.host + exit.patch + 4 + static_cast<std::uint64_t>(std::int64_t{displacement});
}

void CodeCache::link(const Site& from, Block& to, Space space)
{
    if (!from.exit->linkable() || from.block->dropped || to.dropped) return;
    ++counters_.links;
    if (from.exit->by_cell()) {
        if (spaces_[space].links != nullptr) set_cell(from, to, spaces_[space]);
        return;
    }
    patch(*from.block, *from.exit, to.host + to.by_cell);
    to.incoming.push_back(from.number());
}

bool CodeCache::learn(const Site& from, Block& to, Space space)
{
    Block& block = *from.block;
    if (block.dropped || to.dropped) return false;
    // Of the branch's exits only the first has no jump of its own.
    auto first = static_cast<std::size_t>(from.exit - block.exits.data());
    while (block.exits[first].linkable()) --first;
    const bool same_page = page_of(block.rip) == page_of(to.rip) &&
                           page_of(block.ram_offset) == page_of(to.ram_offset) &&
                           to.second_page == Block::no_page;
    std::uint64_t before = page_of(block.rip);
    for (std::size_t i = first + 1; block.mode == to.mode && i <= first + learned_targets; ++i) {
        Exit& each = block.exits[i];
        if (each.kind == ExitKind::indirect) {
            const std::uint64_t difference = before - to.rip;
            if (!learnable(block, to, difference)) break;
            each.kind = ExitKind::direct;
            each.target = to.rip;
            put(block, each.compare, static_cast<std::uint32_t>(difference));
            each.far = !same_page;
            if (each.far) write_cell_jump(block, each);
            link({&block, &each}, to, space);
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

// The block may lie in an older region: its entry lives and dies with the block.
void CodeCache::make_entry(Block& block)
{
    const CodeSpace where = space(entry_max);
    if (block.dropped) return;
    const std::uint32_t size = emit_entry(where, config_.user, block.rip, block.host, miss());
    ASSERT(size != 0);
    block.entry = where.address;
    Region& region = regions_[current_];
    region.used += (size + code_align - 1) & ~(code_align - 1);
    region.entries.emplace(where.address, &block);
    ++counters_.entries;
}

// A learned exit does not jump by a rel32 any more.
void CodeCache::write_cell_jump(const Block& block, const Exit& exit)
{
    constexpr unsigned opcode_size = 1;
    const std::uint64_t at = block.host + exit.patch - opcode_size;
    emit_cell_jump({config_.write + (at - config_.address), at, entry_max}, block.first.cell + exit.cell);
}

// ---- dropping ----------------------------------------------------------------------------------------

void CodeCache::drop(Block& block)
{
    if (block.dropped) return;
    block.dropped = true;
    ++counters_.dropped_blocks;
    for (const std::uint32_t number : block.incoming) {
        const Site from = site(number);
        if (from.block != nullptr) unlink(from, block);
    }
    block.incoming.clear();
    // Its own jumps stay: nobody enters it any more, and a vCPU that is inside leaves by them
    // no further than to the engine.
    for (const Exit& exit : block.exits) {
        if (exit.patch != 0 && !exit.far) patch(block, exit, block.host + exit.stub);
    }
    if (block.entry != 0) forget_entry(block);
    const auto [first, last] = index_.equal_range(key(block.ram_offset, block.rip, block.mode));
    for (auto at = first; at != last; ++at) {
        if (at->second != &block) continue;
        index_.erase(at);
        break;
    }
}

void CodeCache::drop_page(std::uint64_t ram_page)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    for (Block* block : at->second.blocks) drop(*block);
    pages_.erase(at);
    ++counters_.dropped_pages;
}

void CodeCache::drop_page_at(std::uint64_t ram_page, std::uint64_t linear_page)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    std::erase_if(at->second.blocks, [&](Block* block) {
        const std::uint64_t first = page_of(block->rip);
        const bool from_first = page_of(block->ram_offset) == ram_page && first == linear_page;
        const bool from_second =
            block->second_page == ram_page && first + base::page_size == linear_page;
        if (!from_first && !from_second) return false;
        drop(*block);
        return true;
    });
    if (at->second.blocks.empty()) pages_.erase(at);
}

void CodeCache::forget_page(std::uint64_t ram_page, Block& block)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    std::erase(at->second.blocks, &block);
    if (at->second.blocks.empty()) pages_.erase(at);
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
    region.used = region.cold_used = 0;
    region.cells = 0;
}

// The block's sites are about to be reused: nobody may remember them.
void CodeCache::forget_incoming(Block& from)
{
    for (const Exit& exit : from.exits) {
        if (!exit.linkable()) continue;
        Block* const to = exit.by_cell() ? from.cells[exit.cell] : block_at(leads_to(from, exit));
        if (to == nullptr) continue;
        std::erase(to->incoming, Site{&from, &exit}.number());
    }
}

// The exit leads to its stub again wherever it leads to the block.
void CodeCache::unlink(const Site& from, const Block& to)
{
    if (from.exit->by_cell()) {
        forget_cells(from, to);
    } else if (from.exit->patch != 0 && leads_to(*from.block, *from.exit) == to.host + to.by_cell) {
        patch(*from.block, *from.exit, from.block->host + from.exit->stub);
    }
}

}  // namespace doppel::engine::translate
