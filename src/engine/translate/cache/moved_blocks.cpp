// Translations that serve at another guest address than the one that they were made for.
#include <algorithm>
#include <bitset>
#include <cstring>
#include <utility>

#include "base/address.h"
#include "base/assert.h"
#include "engine/translate/cache/code_cache.h"

namespace doppel::engine::translate {

namespace {

// Of a page's blocks, so many of the newest are looked at: each program that is started may add
// those that it runs once more.
constexpr std::size_t looks_max = 1024;

std::uint64_t page_of(std::uint64_t address) { return address & ~base::page_mask; }

}  // namespace

std::vector<Block*> CodeCache::move_page(std::uint64_t ram_offset, std::uint64_t linear_page,
                                         Mode mode)
{
    std::vector<Block*> moved;
    const std::uint64_t ram_page = page_of(ram_offset);
    const auto at = pages_.find(ram_page);
    if (at == pages_.end() || !place_for_move(linear_page, mode)) return moved;

    std::bitset<base::page_size> seen;  // guest code that begins there is there already, or will be
    std::vector<Block*> chosen;
    const auto& blocks = at->second;
    const std::size_t looks = std::min(blocks.size(), looks_max);
    for (std::size_t i = 0; i < looks; ++i) {
        Block& block = *blocks[blocks.size() - 1 - i];
        if (block.mode != mode || page_of(block.ram_offset) != ram_page) continue;
        const std::uint64_t offset = block.ram_offset & base::page_mask;
        if (page_of(block.rip) == linear_page) {
            seen.set(offset);
            continue;
        }
        if (seen[offset] || !block.movable || block.second_page != Block::no_page) continue;
        seen.set(offset);
        chosen.push_back(&block);
    }
    const bool wanted = std::any_of(chosen.begin(), chosen.end(), [&](const Block* block) {
        return block->ram_offset == ram_offset;
    });
    if (!wanted) return moved;
    for (Block* from : chosen) {
        const std::uint64_t rip = linear_page | (from->ram_offset & base::page_mask);
        if (find(from->ram_offset, rip, mode) != nullptr) continue;
        Block* const block = add_moved(*from, rip);
        if (block == nullptr) return {};  // making room may have dropped those before it, too
        moved.push_back(block);
    }
    return moved;
}

// nullptr: making room dropped it.
Block* CodeCache::add_moved(const Block& from, std::uint64_t rip)
{
    CodeSpace where = space_for_block();
    if (from.dropped) return nullptr;
    std::uint32_t entry_size = 0;
    if (from.entry != 0) {
        entry_size = emit_entry(where, config_.user, rip, 0, miss());
        ASSERT(entry_size != 0);
        where = {where.write + entry_size, where.address + entry_size, where.capacity - entry_size};
    }
    auto owned = std::make_unique<Block>(from);
    Block& block = *owned;
    block.rip = rip;
    block.host = where.address;
    block.first_site = next_site();
    block.entry = 0;
    block.incoming.clear();
    std::memcpy(where.write, config_.write + (from.host - config_.address), from.size);
    translate::move(from.relocations,
                    {from.rip, rip, from.host, block.host, from.first_site, block.first_site},
                    where.write);
    for (Exit& exit : block.exits) {
        if (exit.kind != ExitKind::indirect) exit.target += rip - from.rip;
        if (block.mode.code32) exit.target &= 0xffffffff;
        if (exit.patch != 0) patch(block, exit, block.host + exit.stub);
    }
    if (block.table_jump != 0) {
        const CodeSpace jump{where.write + block.table_jump, block.host + block.table_jump,
                             where.capacity - block.table_jump};
        const std::uint32_t size = emit_table_jump(jump);
        ASSERT(size != 0);
    }
    ++counters_.moved_blocks;
    return &keep(std::move(owned), entry_size);
}

}  // namespace doppel::engine::translate
