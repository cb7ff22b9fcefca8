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

// What the block knows of its cold part, which is at another distance now.
void move_cold(Block& block, std::uint32_t cold)
{
    const std::uint32_t apart = cold - block.cold;
    const auto move = [&](std::uint32_t& offset) {
        if (offset >= block.cold) offset += apart;
    };
    for (Point& each : block.points) move(each.host);
    for (Displaced& each : block.displaced) {
        move(each.from);
        move(each.to);
    }
    for (Exit& each : block.exits) move(each.stub);
    for (Relocation& each : block.relocations) move(each.offset);
    move(block.by_cell);
    block.cold = cold;
}

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
    const auto& blocks = at->second.blocks;
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
        where = behind(where, entry_size);
    }
    auto owned = std::make_unique<Block>(from);
    Block& block = *owned;
    block.rip = rip;
    block.host = where.address;
    block.first = next_numbers();
    block.entry = 0;
    block.incoming.clear();
    block.cells.assign(from.cells.size(), nullptr);
    const std::uint8_t* const source = config_.write + (from.host - config_.address);
    std::memcpy(where.write, source, from.hot_size);
    std::memcpy(where.write + where.cold, source + from.cold, from.cold_size);
    translate::move(from.relocations,
                    {from.rip, rip, from.host, block.host, from.cold, where.cold, from.first, block.first},
                    where.write);
    move_cold(block, where.cold);
    for (Exit& exit : block.exits) {
        if (exit.kind != ExitKind::indirect) exit.target += rip - from.rip;
        if (block.mode.code32) exit.target &= 0xffffffff;
        if (exit.far) {
            write_cell_jump(block, exit);
        } else if (exit.patch != 0) {
            patch(block, exit, block.host + exit.stub);
        }
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
