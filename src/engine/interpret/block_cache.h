// Decoded code, by where it lies in guest RAM.
//
//   RIP ──jump table──▶ Block ──op.link──▶ Block     valid for one generation of translations
//    └──fetch TLB──▶ RAM offset ──hash──▶ Block     valid until the page is written
//
// A block belongs to the RAM bytes it was decoded from and to the mode and RIP it was decoded
// for. `verified` says in which generation its RIP was last seen to lead to those bytes: a TLB
// flush begins a new generation, and every block is looked up by physical address once more.
// Blocks that were written over are retired, never freed before everything is dropped: a
// stale pointer (a link, the jump table, the block now running) stays readable.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/address.h"
#include "engine/interpret/op.h"
#include "engine/interpret/shared_code.h"
#include "memory/guest_memory.h"

namespace doppel::engine::interpret {

class Core;

struct Block {
    // The jump's check, in one cache line with the way to the ops.
    std::uint64_t rip = 0;
    std::uint64_t mode_key = 0;
    std::uint64_t verified = 0;  // generation; 0: retired
    Op* ops = nullptr;           // `count` instructions, then one op that leaves
    std::uint32_t count = 0;
    std::uint32_t bytes = 0;     // length of the code
    bool vectors = false;        // one of its instructions is Op::vectors
    // Of the first byte, in RAM. When the block is one instruction that goes on in another
    // page, `second_page` is that page's offset.
    static constexpr std::uint64_t no_page = ~std::uint64_t{0};
    std::uint64_t ram_offset = 0;
    std::uint64_t second_page = no_page;
    Block* next_in_bucket = nullptr;
    std::unique_ptr<Op[]> storage;
};

class BlockCache final : public memory::WriteListener {
public:
    static constexpr unsigned max_ops = 64;
    static constexpr unsigned jump_bits = 13;

    // Registers itself as a listener of `memory`; both outlive every write to it. shared: of the
    // vCPUs that share the memory, of which this is number `vcpu`; nullptr: there is one.
    BlockCache(Core& core, memory::GuestMemory& memory, SharedCode* shared = nullptr,
               unsigned vcpu = 0);
    ~BlockCache() override;

    // ---- lookup (vCPU thread) -----------------------------------------------------------
    [[nodiscard]] std::uint64_t generation() const { return generation_; }
    [[nodiscard]] bool current(const Block& block, std::uint64_t rip, std::uint64_t mode_key) const
    {
        return block.rip == rip && block.mode_key == mode_key && block.verified == generation_;
    }
    [[nodiscard]] Block*& jump_entry(std::uint64_t rip)
    {
        return jumps_[(rip ^ (rip >> jump_bits)) & (jumps_.size() - 1)];
    }
    // By physical address; nullptr when nothing was decoded there.
    [[nodiscard]] Block* find(std::uint64_t ram_offset, std::uint64_t rip, std::uint64_t mode_key) const;
    // Marks the block as current and lets jumps find it.
    void verify(Block& block, std::uint64_t linear);
    // Takes a decoded block. Its pages must have been watched before their bytes were read.
    Block& add(std::unique_ptr<Block> block);
    // From now on stores to the page are reported (written(), on_write()).
    void watch(std::uint64_t ram_offset);
    // Somebody else has code from the page: core.observer hears of writes to it.
    void watch_for_observer(std::uint64_t ram_offset);
    void unwatch_for_observer(std::uint64_t ram_offset);
    // Code that is not this processor's at all, but another worker's: likewise.
    void watch_for_others(std::span<const std::uint64_t> ram_offsets);
    void unwatch_for_others(std::uint64_t ram_offset);
    // Everything is dropped when this is true at a block boundary.
    [[nodiscard]] bool full() const { return op_count_ >= op_limit; }
    // Other vCPUs' stores to the watched page may still go unseen, or it was written to since: what
    // is decoded from it is not to be kept.
    [[nodiscard]] bool unsettled(std::uint64_t ram_offset)
    {
        return pages_[ram_offset >> base::page_shift] == nullptr ||
               (shared_ != nullptr && !shared_->settled(vcpu_, ram_offset));
    }
    void clear();

    // ---- invalidation ---------------------------------------------------------------------
    [[nodiscard]] bool watched(std::uint64_t ram_offset) const
    {
        return watched_[ram_offset >> base::page_shift].load(std::memory_order_relaxed) != 0 ||
               (shared_ != nullptr && shared_->watched(ram_offset));
    }
    // vCPU thread: RAM is about to be or was written, two pages at most. True when the block that
    // runs must not go on. Tells core.observer of pages watched for it, and after the instruction
    // the other vCPUs.
    bool written(std::uint64_t ram_offset, std::uint64_t size);
    // As above, and tells nobody.
    bool drop(std::uint64_t ram_offset, std::uint64_t size);
    // Translations changed: links and jumps hold no longer.
    void new_generation();
    // One page's translation changed: a new generation only if code was run from it.
    void page_changed(std::uint64_t linear);
    // Any thread: remembered, and core.attention set, when decoded code may be affected.
    void on_write(base::Gpa start, std::uint64_t size) noexcept override;
    // vCPU thread: does what on_write() remembered, and what other vCPUs asked for.
    void apply_remote_writes();
    // vCPU thread, between instructions: tells the others what this vCPU wrote.
    void tell_others()
    {
        if (!to_tell_.empty()) tell_others_now();
    }
    // vCPU thread: guest code runs from now on, or none does.
    void enter();
    void leave()
    {
        if (shared_ != nullptr) shared_->left(vcpu_);
    }

    [[nodiscard]] std::uint64_t decoded_blocks() const { return decoded_blocks_; }
    [[nodiscard]] std::uint64_t dropped_pages() const { return dropped_pages_; }

private:
    static constexpr std::uint64_t op_limit = 1u << 20;
    static constexpr unsigned chunk_shift = 6;  // granularity of code within a page
    struct CodePage {
        std::uint64_t chunks = 0;  // 64-byte pieces with code
        std::vector<Block*> blocks;
    };
    static std::uint64_t chunk_mask(std::uint64_t first, std::uint64_t last);
    [[nodiscard]] std::size_t bucket(std::uint64_t ram_offset, std::uint64_t rip) const;
    void enter_page(std::uint64_t page, std::uint64_t first, std::uint64_t last, Block& block);
    void drop_page(std::uint64_t page);
    void unwatch(std::uint64_t page);
    void unlink(Block& block);
    void tell_others_now();
    void apply_messages();

    struct RemoteWrite {
        std::uint64_t ram_offset, size;
    };

    Core& core_;
    memory::GuestMemory& memory_;
    std::uint64_t generation_ = 1;
    std::array<Block*, std::size_t{1} << jump_bits> jumps_{};
    std::vector<Block*> buckets_;
    std::vector<std::unique_ptr<Block>> blocks_;  // retired ones too
    std::vector<std::unique_ptr<CodePage>> pages_;
    // Per page of RAM: who has code from it. Written by the vCPU thread before the code is
    // read, read by any.
    static constexpr std::uint8_t watched_by_blocks = 1, watched_by_observer = 2,
                                  watched_by_others = 4;
    void set_watch(std::uint64_t page, std::uint8_t who);
    void clear_watch(std::uint64_t page, std::uint8_t who);
    std::vector<std::atomic<std::uint8_t>> watched_;
    // Linear pages that jumps lead to in this generation, hashed.
    std::bitset<4096> jump_pages_;
    std::uint64_t op_count_ = 0;
    std::uint64_t decoded_blocks_ = 0, dropped_pages_ = 0;

    std::mutex remote_mutex_;
    static constexpr std::size_t most_remote_writes = 4096;
    std::vector<RemoteWrite> remote_writes_;
    std::atomic<bool> remote_pending_{false};

    SharedCode* const shared_;
    const unsigned vcpu_;
    std::vector<SharedCode::Write> to_tell_;
};

}  // namespace doppel::engine::interpret
