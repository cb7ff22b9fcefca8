// Translated blocks: where their code is, how they are found, linked and dropped. One cache for
// supervisor code (run by the worker) and one for user code (run by the user processes, which
// see it read-only).
//
//   (RAM offset, RIP, mode) ──hash──▶ Block          valid until its page is written
//   exit of a block ──rel32──▶ block                 direct links, unlinked when it is dropped
//   exit of a block ──cell──▶ block                  the same to other pages of user code; cells
//                                                    for each address space
//   16 bits of RIP ─target table─▶ entry ──▶ block   indirect branches; a table for each
//                                                    address space, filled by the engine
//
// The code lies in regions that are filled one after the other. When all are full the oldest
// is emptied, with all its blocks. A dropped block's bytes stay until then, so that the engine
// may still look up a host address in it.
//
// Not thread-safe. No guest code runs while a function here does.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/address.h"
#include "engine/translate/block/translation.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {

inline std::uint64_t page_of(std::uint64_t address) { return address & ~base::page_mask; }

// Host addresses of a block's code.
struct HostCode {
    std::uint64_t host = 0;  // first byte
    std::uint32_t hot_size = 0, cold_size = 0;
    std::uint32_t cold = 0;  // offset of what is seldom run

    [[nodiscard]] bool has(std::uint64_t address) const
    {
        return address - host < hot_size || address - (host + cold) < cold_size;
    }
};

struct Block : HostCode {
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
    Numbers first;
    std::uint64_t entry = 0;        // for indirect branches; 0: none yet
    std::vector<Point> points;
    std::vector<Displaced> displaced;
    std::vector<Exit> exits;
    // Where each of its cells was last seen to lead in an address space; it leads nowhere else but to its
    // exit's stub or, in another space, elsewhere.
    std::vector<Block*> cells;
    std::uint32_t by_cell = 0;
    bool movable = false;
    std::vector<Relocation> relocations;
    std::uint32_t table_jump = 0;   // offset of what emit_table_jump() wrote; 0: nothing
    // Exits of other blocks that jump here, or did: site numbers.
    std::vector<std::uint32_t> incoming;
};

// An exit that was taken.
struct Site {
    Block* block = nullptr;
    const Exit* exit = nullptr;

    [[nodiscard]] std::uint32_t number() const
    {
        return block->first.site + static_cast<std::uint32_t>(exit - block->exits.data());
    }
};

class CodeCache {
public:
    struct Config {
        bool user = false;
        std::uint64_t address = 0;      // where it runs
        std::uint8_t* write = nullptr;  // the writable alias
        std::uint64_t size = 0;
        std::uint64_t common_exit = 0;
        // Called once for each large_page of the cache, with its alias, before code is put there.
        void (*prepare)(std::uint8_t* at) = nullptr;
    };
    static constexpr unsigned regions = 16;

    CodeCache(const Config& config, const x86::CpuidPolicy& cpuid);

    // An address space: its table of indirect branches' targets and, for user code, its links; both all
    // zero.
    using Space = unsigned;
    static constexpr unsigned spaces_max = 128;
    Space add_space(std::uint64_t* targets, std::uint64_t* links = nullptr);
    // It becomes another one: its tables lead nowhere.
    void clear_space(Space space);
    // The space has `ram_page` at `linear_page`, and may run its code from now on: that finds what it
    // leads to, and is found. Another address space that ran the page is a good guess.
    // ram_page_of: of a page whose code the space relies on already; Block::no_page of any other.
    using PageOf = std::function<std::uint64_t(std::uint64_t linear_page)>;
    void show_page(Space space, std::uint64_t linear_page, std::uint64_t ram_page, Mode mode,
                   const PageOf& ram_page_of);
    [[nodiscard]] bool shows(Space space, std::uint64_t ram_page) const;
    // It has it there no longer: nothing leads there.
    void hide_page(Space space, std::uint64_t linear_page, std::uint64_t ram_page);

    [[nodiscard]] Block* find(std::uint64_t ram_offset, std::uint64_t rip, Mode mode) const;
    // Translates and takes in. Never nullptr; the block's guest_bytes may be 0 (see translate()).
    // With `target` indirect branches are expected to lead there: its entry, which enter_target()
    // will want, lies right before it.
    // second_page: RAM page of the bytes that are not source.own_bytes, if there are any.
    Block& add(const Source& source, std::uint64_t ram_offset, std::uint64_t second_page,
               bool target = false);
    // Makes a direct exit jump to `to` from now on, in this space or, without a cell, in all.
    void link(const Site& from, Block& to, Space space);
    // The indirect branch that left by this exit goes to `to` directly from now on. False: it
    // cannot, or has met too many targets; it asks the table of targets from now on.
    bool learn(const Site& from, Block& to, Space space);
    // The translations of a page that another address space has at another address, moved to
    // `linear_page`: libraries are at other places in each process. All of the page that can be,
    // when the one at `ram_offset` can.
    std::vector<Block*> move_page(std::uint64_t ram_offset, std::uint64_t linear_page, Mode mode);
    // Lets the space's indirect branches find the block.
    void enter_target(Space space, Block& block);
    void clear_targets(Space space);
    // Entries whose RIP lies in this page.
    void clear_targets(Space space, std::uint64_t linear_page);

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
            cold_bytes = 0, dropped_blocks = 0, dropped_pages = 0, emptied_regions = 0;
    };
    [[nodiscard]] const Counters& counters() const { return counters_; }

private:
    struct Region {
        std::uint64_t begin = 0, used = 0, size = 0;                 // offsets in the cache
        std::uint64_t cold_begin = 0, cold_used = 0, cold_size = 0;
        std::uint32_t cells = 0;                                     // used
        std::deque<std::unique_ptr<Block>> blocks;    // ascending host addresses, cold ones, too
        std::vector<Block*> sites;                    // by number in the region
        std::unordered_map<std::uint64_t, Block*> entries;  // entry stub's address
    };
    struct Tables {
        std::uint64_t* targets;
        std::uint64_t* links;
        // Indices used in the first table of targets; so many as it has: any. And in the second.
        std::vector<std::uint32_t> first, second;
        std::vector<std::uint64_t> pages;  // of RAM whose blocks' cells are ready
    };
    // A page of RAM that something was translated from.
    struct Page {
        std::vector<Block*> blocks;
        // Of the blocks that begin in it, the cells have values in these spaces. No others run them.
        std::bitset<spaces_max> ready;
    };
    static constexpr unsigned site_region_shift = 24;
    static constexpr std::uint32_t region_cells = link_count / regions;

    [[nodiscard]] CodeSpace space_for_block();
    [[nodiscard]] Numbers next_numbers() const;
    Block* add_moved(const Block& from, std::uint64_t rip);
    Block& keep(std::unique_ptr<Block> block, std::uint32_t entry_size);
    void make_entry(Block& block);
    void put_target(Tables& space, const Block& block);
    [[nodiscard]] bool shown(const Block& block, Space space, const PageOf& ram_page_of) const;
    void make_ready(Space space, std::uint64_t ram_page, Page& page, const PageOf& ram_page_of);
    void set_cell(const Site& from, Block& to, Tables& space);
    static void forget_cell(const Site& from, const Block& to, Tables& space);
    void forget_cells(const Site& from, const Block& to);
    static void reset_cells(const Block& block, Tables& space);
    void write_cell_jump(const Block& block, const Exit& exit);
    void unlink(const Site& from, const Block& to);
    [[nodiscard]] CodeSpace space(std::uint64_t need);
    void prepare(std::uint64_t begin, std::uint64_t size);
    static CodeSpace behind(const CodeSpace& space, std::uint32_t bytes);
    void next_region();
    void empty(Region& region);
    void forget_page(std::uint64_t ram_page, Block& block);
    void forget_incoming(Block& from);
    [[nodiscard]] std::uint64_t leads_to(const Block& block, const Exit& exit) const;
    void put(const Block& block, std::uint32_t offset, std::uint32_t value);
    void patch(const Block& block, const Exit& exit, std::uint64_t to);
    void write_head();
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
    std::vector<bool> prepared_;  // by large_page
    std::unordered_multimap<std::size_t, Block*> index_;
    std::unordered_map<std::uint64_t, Page> pages_;
    std::vector<Tables> spaces_;
    Translation scratch_;
    Counters counters_;
};

}  // namespace doppel::engine::translate
