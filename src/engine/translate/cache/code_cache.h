// Translated blocks: where their code is, how they are found, linked and dropped. One cache for
// supervisor code (run by the worker) and one for user code (run by the user processes, which
// see it read-only).
//
//   (RAM offset, RIP, mode) ──hash──▶ Block          valid until its page is written
//   exit of a block ──rel32──▶ block                 direct links, unlinked when it is dropped
//   RIP & 0xffff ──target table──▶ entry ──▶ block   indirect branches; a table for each
//                                                    address space, filled by the engine
//
// The code lies in regions that are filled one after the other. When all are full the oldest
// is emptied, with all its blocks. A dropped block's bytes stay until then, so that the engine
// may still look up a host address in it.
//
// Not thread-safe. No guest code runs while a function here does.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/translate/block/translation.h"

namespace doppel::engine::translate {

struct Block {
    std::uint64_t rip = 0;
    std::uint64_t ram_offset = 0;   // of the first guest byte
    // RAM page of the bytes behind the first page's end; no_page: it has none there.
    static constexpr std::uint64_t no_page = ~std::uint64_t{0};
    std::uint64_t second_page = no_page;
    std::uint32_t guest_bytes = 0;
    std::int32_t branch_rsp = 0;    // as Translation
    std::uint16_t guest_count = 0;  // instructions
    Mode mode;
    bool dropped = false;
    std::uint64_t host = 0;         // first byte of its code
    std::uint32_t size = 0;
    std::uint32_t first_site = 0;
    std::uint64_t entry = 0;        // for indirect branches; 0: none yet
    std::vector<Point> points;
    std::vector<Displaced> displaced;
    std::vector<Exit> exits;
    std::uint32_t through_table = 0;
    bool movable = false;
    std::vector<Relocation> relocations;
    std::uint32_t table_jump = 0;   // offset of what emit_table_jump() wrote; 0: nothing
    // Exits of other blocks that jump here: site numbers.
    std::vector<std::uint32_t> incoming;
};

// An exit that was taken.
struct Site {
    Block* block = nullptr;
    const Exit* exit = nullptr;
};

class CodeCache {
public:
    struct Config {
        bool user = false;
        std::uint64_t address = 0;      // where it runs
        std::uint8_t* write = nullptr;  // the writable alias
        std::uint64_t size = 0;
        std::uint64_t common_exit = 0;
    };
    static constexpr unsigned regions = 16;

    CodeCache(const Config& config, const x86::CpuidPolicy& cpuid);

    // A table of indirect branch targets that entries may be put into; all zero.
    void add_targets(std::uint64_t* table);

    [[nodiscard]] Block* find(std::uint64_t ram_offset, std::uint64_t rip, Mode mode) const;
    // Translates and takes in. Never nullptr; the block's guest_bytes may be 0 (see translate()).
    // With `target` indirect branches are expected to lead there: its entry, which enter_target()
    // will want, lies right before it.
    // second_page: RAM page of the bytes that are not source.own_bytes, if there are any.
    Block& add(const Source& source, std::uint64_t ram_offset, std::uint64_t second_page,
               bool target = false);
    // Makes a direct exit jump to `to` from now on.
    void link(const Site& from, Block& to);
    // The indirect branch that left by this exit goes to `to` directly from now on. False: it
    // cannot, or has met too many targets; it asks the table of targets from now on.
    bool learn(const Site& from, Block& to);
    // The translations of a page that another address space has at another address, moved to
    // `linear_page`: libraries are at other places in each process. All of the page that can be,
    // when the one at `ram_offset` can.
    std::vector<Block*> move_page(std::uint64_t ram_offset, std::uint64_t linear_page, Mode mode);
    // Lets indirect branches find the block, through this table.
    void enter_target(std::uint64_t* table, Block& block);
    // All blocks of a page that indirect branches have found in some table: another address space
    // that runs the page is about to go to the same places.
    // ram_page_of: of a page whose code it relies on already; Block::no_page of any other.
    using PageOf = std::function<std::uint64_t(std::uint64_t linear_page)>;
    void enter_page(std::uint64_t* table, std::uint64_t linear_page, Mode mode,
                    const PageOf& ram_page_of);
    void clear_targets(std::uint64_t* table);
    // Entries whose RIP lies in this page.
    void clear_targets(std::uint64_t* table, std::uint64_t linear_page);

    [[nodiscard]] Site site(std::uint32_t number) const;        // {}: no such site
    [[nodiscard]] Block* block_at(std::uint64_t host) const;    // the block whose code this is
    // The block that ExecContext::branch names.
    [[nodiscard]] Block* branch_at(std::uint32_t low_half) const
    {
        return block_at(config_.address + static_cast<std::uint32_t>(
                                              low_half - static_cast<std::uint32_t>(config_.address)));
    }
    [[nodiscard]] bool contains(std::uint64_t host) const
    {
        return host - config_.address < config_.size;
    }

    // It is found no longer, and nothing leads to it. Links to it are undone: code changes.
    void drop(Block& block);
    // Drops what was translated from the page. The callback learns of the RIPs of entries.
    void drop_page(std::uint64_t ram_page);
    // Of those, only blocks that have their bytes of it from this linear page.
    void drop_page_at(std::uint64_t ram_page, std::uint64_t linear_page);
    [[nodiscard]] bool has_page(std::uint64_t ram_page) const { return pages_.contains(ram_page); }

    struct Counters {
        std::uint64_t blocks = 0, moved_blocks = 0, guest_instructions = 0, host_bytes = 0, links = 0, entries = 0,
            dropped_blocks = 0, dropped_pages = 0, emptied_regions = 0;
    };
    [[nodiscard]] const Counters& counters() const { return counters_; }

private:
    struct Region {
        std::uint64_t begin = 0, used = 0, size = 0;  // offsets in the cache
        std::deque<std::unique_ptr<Block>> blocks;    // ascending host addresses
        std::vector<Block*> sites;                    // by number in the region
        std::unordered_map<std::uint64_t, Block*> entries;  // entry stub's address
    };
    struct Targets {
        std::uint64_t* table = nullptr;
        // Indices used in the first table; so many as it has: any. And in the second.
        std::vector<std::uint32_t> first, second;
    };
    static constexpr unsigned site_region_shift = 24;

    [[nodiscard]] CodeSpace space_for_block();
    [[nodiscard]] std::uint32_t next_site() const;
    Block* add_moved(const Block& from, std::uint64_t rip);
    Block& keep(std::unique_ptr<Block> block, std::uint32_t entry_size);
    void put_target(Targets& used, const Block& block);
    [[nodiscard]] CodeSpace space(std::uint64_t need);
    void next_region();
    void empty(Region& region);
    void forget_page(std::uint64_t ram_page, Block& block);
    void forget_incoming(Block& from);
    void put(const Block& block, std::uint32_t offset, std::uint32_t value);
    void patch(const Block& block, const Exit& exit, std::uint64_t to);
    void write_head();
    [[nodiscard]] Targets& targets(std::uint64_t* table);
    void forget_entry(const Block& block);
    [[nodiscard]] std::uint64_t miss() const { return config_.address; }
    static std::size_t key(std::uint64_t ram_offset, std::uint64_t rip, Mode mode);

    Config config_;
    const x86::CpuidPolicy& cpuid_;
    std::array<Region, regions> regions_;
    // Of the region emptied last: callers may still hold one that making room dropped.
    std::deque<std::unique_ptr<Block>> retired_;
    unsigned current_ = 0;
    std::uint64_t head_size_ = 0;
    std::unordered_multimap<std::size_t, Block*> index_;
    std::unordered_map<std::uint64_t, std::vector<Block*>> pages_;
    std::vector<Targets> tables_;
    Translation scratch_;
    Counters counters_;
};

}  // namespace doppel::engine::translate
