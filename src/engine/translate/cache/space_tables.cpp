// What an address space has of its own of the code that all share: the table of indirect branches'
// targets, and where the jumps to other pages lead.
#include <algorithm>

#include "base/address.h"
#include "base/assert.h"
#include "engine/translate/cache/code_cache.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {

namespace {

std::uint64_t& second_key(std::uint64_t* table, unsigned index)
{
    return table[second_keys / sizeof *table + index];
}
std::uint64_t& second_host(std::uint64_t* table, unsigned index)
{
    return table[second_hosts / sizeof *table + index];
}

}  // namespace

CodeCache::Space CodeCache::add_space(std::uint64_t* targets, std::uint64_t* links)
{
    ASSERT(spaces_.size() < spaces_max);
    spaces_.push_back({targets, links, {}, {}, {}});
    std::fill_n(targets, target_count, miss());
    static_assert(second_unused(1) == 0 && second_unused(target_count - 1) == 0);
    second_key(targets, 0) = second_unused(0);
    return static_cast<Space>(spaces_.size()) - 1;
}

void CodeCache::clear_space(Space space)
{
    clear_targets(space);
    for (const std::uint64_t ram_page : spaces_[space].pages) {
        if (const auto at = pages_.find(ram_page); at != pages_.end()) at->second.ready.reset(space);
    }
    spaces_[space].pages.clear();
}

// ---- targets ---------------------------------------------------------------------------------------

void CodeCache::clear_targets(Space space)
{
    Tables& used = spaces_[space];
    if (used.first.size() == target_count) {
        std::fill_n(used.targets, target_count, miss());
    } else {
        for (const std::uint32_t index : used.first) used.targets[index] = miss();
    }
    used.first.clear();
    for (const std::uint32_t index : used.second) {
        second_key(used.targets, index) = second_unused(index);
    }
    used.second.clear();
}

void CodeCache::clear_targets(Space space, std::uint64_t linear_page)
{
    std::uint64_t* const table = spaces_[space].targets;
    // Those of one page are neighbours.
    const unsigned first = first_index(linear_page);
    std::fill(table + first, table + first_index(linear_page | base::page_mask) + 1, miss());
    std::erase_if(spaces_[space].second, [&](std::uint32_t index) {
        std::uint64_t& key = second_key(table, index);
        if (page_of(0 - key) != linear_page) return false;
        key = second_unused(index);
        return true;
    });
}

void CodeCache::enter_target(Space space, Block& block)
{
    if (block.dropped) return;
    if (block.entry == 0) {
        make_entry(block);
        if (block.dropped) return;  // making room dropped it
    }
    put_target(spaces_[space], block);
}

void CodeCache::put_target(Tables& used, const Block& block)
{
    std::uint64_t* const table = used.targets;
    const std::uint32_t first = first_index(block.rip);
    if (table[first] == miss() && used.first.size() < target_count) used.first.push_back(first);
    table[first] = block.entry;
    // Another block's entry may have lain there, or may come to: the second table has both.
    const unsigned index = second_index(block.rip);
    std::uint64_t& key = second_key(table, index);
    if (key == second_unused(index)) used.second.push_back(index);
    key = 0 - block.rip;
    second_host(table, index) = block.host;
}

void CodeCache::forget_entry(const Block& block)
{
    const std::uint32_t first = first_index(block.rip);
    const unsigned second = second_index(block.rip);
    for (Tables& each : spaces_) {
        if (each.first.empty()) continue;
        if (each.targets[first] == block.entry) each.targets[first] = miss();
        std::uint64_t& key = second_key(each.targets, second);
        if (key != 0 - block.rip || second_host(each.targets, second) != block.host) continue;
        key = second_unused(second);
        std::erase(each.second, second);
    }
}

// ---- pages and links -------------------------------------------------------------------------------

// Whether the space has the block where its code was found, and may run it. It may rely on a page
// whose code has been dropped, and translated again for another space.
bool CodeCache::shown(const Block& block, Space space, const PageOf& ram_page_of) const
{
    const std::uint64_t page = page_of(block.rip);
    return !block.dropped && ram_page_of(page) == page_of(block.ram_offset) &&
           shows(space, page_of(block.ram_offset)) &&
           (block.second_page == Block::no_page ||
            ram_page_of(page + base::page_size) == block.second_page);
}

void CodeCache::show_page(Space space, std::uint64_t linear_page, std::uint64_t ram_page, Mode mode,
                          const PageOf& ram_page_of)
{
    const auto at = pages_.find(ram_page);
    if (at == pages_.end()) return;
    Tables& tables = spaces_[space];
    make_ready(space, at->first, at->second, ram_page_of);
    for (Block* block : at->second.blocks) {
        const std::uint64_t page = page_of(block->rip);
        if (page != linear_page && page + base::page_size != linear_page) continue;
        if (!shown(*block, space, ram_page_of)) continue;
        if (block->entry != 0 && block->mode == mode) put_target(tables, *block);
        for (const std::uint32_t number : block->incoming) {
            const Site from = site(number);
            if (from.block == nullptr || !from.exit->by_cell()) continue;
            if (from.block->cells[from.exit->cell] != block) continue;  // the number is another's by now
            tables.links[from.block->first.cell + from.exit->cell] = block->host;
        }
    }
}

// Somewhere. A page whose code was dropped is not shown any more.
bool CodeCache::shows(Space space, std::uint64_t ram_page) const
{
    const auto at = pages_.find(ram_page);
    return at != pages_.end() && at->second.ready[space];
}

// Where the blocks' own jumps lead in this space.
void CodeCache::make_ready(Space space, std::uint64_t ram_page, Page& page, const PageOf& ram_page_of)
{
    Tables& tables = spaces_[space];
    if (page.ready[space]) return;
    page.ready.set(space);
    tables.pages.push_back(ram_page);
    if (tables.links == nullptr) return;
    for (const Block* block : page.blocks) {
        if (page_of(block->ram_offset) != ram_page) continue;
        reset_cells(*block, tables);
        for (const Exit& exit : block->exits) {
            if (exit.cell == Exit::no_cell) continue;
            const Block* const to = block->cells[exit.cell];
            if (to == nullptr || !shown(*to, space, ram_page_of)) continue;
            tables.links[block->first.cell + exit.cell] = to->host;
        }
    }
}

void CodeCache::reset_cells(const Block& block, Tables& space)
{
    for (const Exit& exit : block.exits) {
        if (exit.cell == Exit::no_cell) continue;
        space.links[block.first.cell + exit.cell] = block.host + exit.stub;
    }
}

void CodeCache::hide_page(Space space, std::uint64_t linear_page, std::uint64_t ram_page)
{
    // Instructions that go on in the page lie in the one before it.
    clear_targets(space, linear_page);
    clear_targets(space, linear_page - base::page_size);
    Tables& tables = spaces_[space];
    const auto at = pages_.find(ram_page);
    if (tables.links == nullptr || at == pages_.end()) return;
    for (const Block* block : at->second.blocks) {
        const std::uint64_t page = page_of(block->rip);
        if (page != linear_page && page + base::page_size != linear_page) continue;
        for (const std::uint32_t number : block->incoming) {
            const Site from = site(number);
            if (from.block != nullptr && from.exit->by_cell()) forget_cell(from, *block, tables);
        }
    }
}

void CodeCache::set_cell(const Site& from, Block& to, Tables& space)
{
    Block*& known = from.block->cells[from.exit->cell];
    if (known != &to) to.incoming.push_back(from.number());
    known = &to;
    space.links[from.block->first.cell + from.exit->cell] = to.host;
}

void CodeCache::forget_cell(const Site& from, const Block& to, Tables& space)
{
    std::uint64_t& cell = space.links[from.block->first.cell + from.exit->cell];
    if (cell == to.host) cell = from.block->host + from.exit->stub;
}

// In all spaces.
void CodeCache::forget_cells(const Site& from, const Block& to)
{
    for (Tables& each : spaces_) {
        if (each.links != nullptr) forget_cell(from, to, each);
    }
    Block*& known = from.block->cells[from.exit->cell];
    if (known == &to) known = nullptr;
}

}  // namespace doppel::engine::translate
