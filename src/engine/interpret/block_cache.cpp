#include "engine/interpret/block_cache.h"

#include <algorithm>

#include "base/assert.h"
#include "engine/interpret/core.h"
#include "engine/interpret/interpreter.h"

namespace doppel::engine::interpret {

namespace {

constexpr std::size_t bucket_count = 1u << 16;

constexpr std::uint64_t page_of(std::uint64_t ram_offset)
{
    return ram_offset >> base::page_shift;
}

}  // namespace

BlockCache::BlockCache(Core& core, memory::GuestMemory& memory, SharedCode* shared, unsigned vcpu)
    : core_(core), memory_(memory), buckets_(bucket_count, nullptr),
      pages_(page_of(memory.end())), watched_(page_of(memory.end())), shared_(shared),
      vcpu_(vcpu)
{
    memory.add_listener(*this);
    if (shared_ != nullptr) shared_->join(vcpu_, core_.attention);
}

BlockCache::~BlockCache()
{
    if (shared_ != nullptr) shared_->leave(vcpu_);
}

std::size_t BlockCache::bucket(std::uint64_t ram_offset, std::uint64_t rip) const
{
    const std::uint64_t mixed = (ram_offset ^ (rip << 20)) * 0x9e3779b97f4a7c15;
    return mixed >> (64 - 16);
}

Block* BlockCache::find(std::uint64_t ram_offset, std::uint64_t rip, std::uint64_t mode_key) const
{
    for (Block* block = buckets_[bucket(ram_offset, rip)]; block != nullptr;
         block = block->next_in_bucket) {
        if (block->ram_offset == ram_offset && block->rip == rip && block->mode_key == mode_key) {
            return block;
        }
    }
    return nullptr;
}

void BlockCache::verify(Block& block, std::uint64_t linear)
{
    block.verified = generation_;
    jump_entry(block.rip) = &block;
    jump_pages_.set((linear >> base::page_shift) & (jump_pages_.size() - 1));
    if (block.second_page != Block::no_page) {
        jump_pages_.set(((linear >> base::page_shift) + 1) & (jump_pages_.size() - 1));
    }
}

Block& BlockCache::add(std::unique_ptr<Block> owned)
{
    Block& block = *owned;
    const std::uint64_t first = block.ram_offset & base::page_mask;
    if (block.second_page == Block::no_page) {
        enter_page(page_of(block.ram_offset), first, first + block.bytes - 1, block);
    } else {
        enter_page(page_of(block.ram_offset), first, base::page_mask, block);
        enter_page(page_of(block.second_page), 0, first + block.bytes - 1 - base::page_size, block);
    }
    Block*& head = buckets_[bucket(block.ram_offset, block.rip)];
    block.next_in_bucket = head;
    head = &block;
    op_count_ += block.count + 1;
    ++decoded_blocks_;
    blocks_.push_back(std::move(owned));
    return block;
}

std::uint64_t BlockCache::chunk_mask(std::uint64_t first, std::uint64_t last)
{
    const std::uint64_t low = ~std::uint64_t{0} << (first >> chunk_shift);
    const std::uint64_t high = ~std::uint64_t{0} >> (63 - (last >> chunk_shift));
    return low & high;
}

void BlockCache::enter_page(std::uint64_t page, std::uint64_t first, std::uint64_t last,
                            Block& block)
{
    ASSERT(pages_[page] != nullptr && last < base::page_size);
    pages_[page]->chunks |= chunk_mask(first, last);
    pages_[page]->blocks.push_back(&block);
}

void BlockCache::watch(std::uint64_t ram_offset)
{
    const std::uint64_t page = page_of(ram_offset);
    // The observer may have it dropped at once.
    while (pages_[page] == nullptr) {
        pages_[page] = std::make_unique<CodePage>();
        const bool observed = (watched_[page].load(std::memory_order_relaxed) & watched_by_observer) != 0;
        set_watch(page, watched_by_blocks);
        MemoryAccess::watch_page(core_, ram_offset);
        if (core_.observer != nullptr && !observed) core_.observer->code_decoded(page << base::page_shift);
    }
}

void BlockCache::watch_for_observer(std::uint64_t ram_offset)
{
    const std::uint64_t page = page_of(ram_offset);
    ASSERT(page < watched_.size());
    if ((watched_[page].load(std::memory_order_relaxed) & watched_by_observer) != 0) return;
    set_watch(page, watched_by_observer);
    MemoryAccess::watch_page(core_, ram_offset);
}

void BlockCache::unwatch_for_observer(std::uint64_t ram_offset)
{
    ASSERT(page_of(ram_offset) < watched_.size());
    clear_watch(page_of(ram_offset), watched_by_observer);
}

void BlockCache::watch_for_others(std::span<const std::uint64_t> ram_offsets)
{
    // Each look for views of a page is a look at all of the TLB.
    constexpr std::size_t few = 8;
    for (const std::uint64_t ram_offset : ram_offsets) {
        ASSERT(page_of(ram_offset) < watched_.size());
        watched_[page_of(ram_offset)].fetch_or(watched_by_others, std::memory_order_seq_cst);
        if (ram_offsets.size() <= few) MemoryAccess::watch_page(core_, ram_offset);
    }
    if (ram_offsets.size() > few) core_.drop_translations(false);
}

void BlockCache::unwatch_for_others(std::uint64_t ram_offset)
{
    clear_watch(page_of(ram_offset), watched_by_others);
}

void BlockCache::set_watch(std::uint64_t page, std::uint8_t who)
{
    // Before the bytes are read: a writer on another thread writes first and looks at the
    // flag second, so that one of the two sees the other.
    watched_[page].fetch_or(who, std::memory_order_seq_cst);
    memory_.note_code(page << base::page_shift);
    if (shared_ != nullptr) shared_->watch(vcpu_, page << base::page_shift);
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

void BlockCache::clear_watch(std::uint64_t page, std::uint8_t who)
{
    constexpr std::uint8_t own = watched_by_blocks | watched_by_observer;
    const std::uint8_t left = static_cast<std::uint8_t>(~who);
    const std::uint8_t before = watched_[page].fetch_and(left, std::memory_order_seq_cst);
    if ((who & own) != 0 && (before & left & own) == 0) memory_.forget_code(page << base::page_shift);
}

void BlockCache::unlink(Block& block)
{
    block.verified = 0;
    Block** at = &buckets_[bucket(block.ram_offset, block.rip)];
    while (*at != nullptr && *at != &block) at = &(*at)->next_in_bucket;
    if (*at != nullptr) *at = block.next_in_bucket;
}

void BlockCache::drop_page(std::uint64_t page)
{
    // A block in two pages may be met again through the other one; unlink() does not mind.
    for (Block* block : pages_[page]->blocks) unlink(*block);
    unwatch(page);
    ++dropped_pages_;
}

void BlockCache::unwatch(std::uint64_t page)
{
    pages_[page].reset();
    clear_watch(page, watched_by_blocks);
    if (shared_ != nullptr) shared_->unwatch(vcpu_, page << base::page_shift);
}

bool BlockCache::written(std::uint64_t ram_offset, std::uint64_t size)
{
    if (size == 0) return false;
    bool dropped = drop(ram_offset, size);
    if (shared_ != nullptr && (shared_->watched_by_others(vcpu_, ram_offset) ||
                               shared_->watched_by_others(vcpu_, ram_offset + size - 1))) {
        to_tell_.push_back({ram_offset, size});
        dropped = true;
    }
    if (core_.observer == nullptr) return dropped;
    const std::uint64_t last = page_of(ram_offset + size - 1);
    for (std::uint64_t page = page_of(ram_offset); page <= last && page < watched_.size(); ++page) {
        const std::uint8_t who = watched_[page].load(std::memory_order_relaxed);
        if ((who & (watched_by_observer | watched_by_others)) == 0) continue;
        core_.observer->code_written(page << base::page_shift);
        dropped = dropped || (who & watched_by_others) != 0;
    }
    return dropped;
}

bool BlockCache::drop(std::uint64_t ram_offset, std::uint64_t size)
{
    if (size == 0) return false;
    bool dropped = false;
    const std::uint64_t end = ram_offset + size - 1;
    for (std::uint64_t page = page_of(ram_offset); page <= page_of(end) && page < pages_.size();
         ++page) {
        if (pages_[page] == nullptr) continue;
        const std::uint64_t first = page == page_of(ram_offset) ? ram_offset & base::page_mask : 0;
        const std::uint64_t last = page == page_of(end) ? end & base::page_mask : base::page_mask;
        // All of a page goes in any case: it may be watched without a block, after a decoding that
        // failed, and who writes all of it must find it free of code afterwards.
        const bool whole = first == 0 && last == base::page_mask;
        if (!whole && (pages_[page]->chunks & chunk_mask(first, last)) == 0) continue;
        drop_page(page);
        dropped = true;
    }
    return dropped;
}

void BlockCache::new_generation()
{
    ++generation_;
    jump_pages_.reset();
}

void BlockCache::page_changed(std::uint64_t linear)
{
    if (jump_pages_.test((linear >> base::page_shift) & (jump_pages_.size() - 1))) new_generation();
}

void BlockCache::clear()
{
    for (std::uint64_t page = 0; page < pages_.size(); ++page) {
        if (pages_[page] != nullptr) unwatch(page);
    }
    std::fill(buckets_.begin(), buckets_.end(), nullptr);
    jumps_.fill(nullptr);
    blocks_.clear();
    op_count_ = 0;
    new_generation();
}

void BlockCache::on_write(base::Gpa start, std::uint64_t size) noexcept
{
    const std::span<std::byte> range = memory_.span(start, size);
    if (range.empty()) {
        // More than one slot: page by page.
        for (std::uint64_t done = 0; done < size;) {
            const std::uint64_t part =
                std::min(size - done, base::page_size - (start + done).page_offset());
            if (!memory_.span(start + done, part).empty()) on_write(start + done, part);
            done += part;
        }
        return;
    }
    const auto ram_offset = static_cast<std::uint64_t>(range.data() - memory_.ram());
    std::atomic_thread_fence(std::memory_order_seq_cst);
    bool affected = false;
    for (std::uint64_t page = page_of(ram_offset); page <= page_of(ram_offset + size - 1); ++page) {
        affected = affected || watched_[page].load(std::memory_order_relaxed) != 0;
    }
    if (!affected) return;
    {
        const std::lock_guard lock{remote_mutex_};
        // A vCPU that halts does not look: what has become too much to list is all of memory.
        if (remote_writes_.size() == most_remote_writes) remote_writes_.assign(1, {0, memory_.end()});
        remote_writes_.push_back({ram_offset, size});
    }
    remote_pending_.store(true, std::memory_order_release);
    core_.attention.store(true, std::memory_order_release);
}

void BlockCache::tell_others_now()
{
    for (const SharedCode::Write& write : to_tell_) {
        shared_->written(vcpu_, write.ram_offset, write.size);
    }
    to_tell_.clear();
}

void BlockCache::enter()
{
    if (shared_ == nullptr) return;
    shared_->enter(vcpu_);
    apply_messages();
}

void BlockCache::apply_messages()
{
    const SharedCode::Messages messages = shared_->take(vcpu_);
    if (messages.all_watched) MemoryAccess::flush(core_, false);
    for (const std::uint64_t page : messages.watched) {
        MemoryAccess::watch_page(core_, page << base::page_shift);
    }
    for (const SharedCode::Write& write : messages.written) {
        static_cast<void>(drop(write.ram_offset, write.size));
    }
    shared_->settle(vcpu_, messages);
}

void BlockCache::apply_remote_writes()
{
    if (shared_ != nullptr) apply_messages();
    if (!remote_pending_.exchange(false, std::memory_order_acquire)) return;
    std::vector<RemoteWrite> writes;
    {
        const std::lock_guard lock{remote_mutex_};
        writes.swap(remote_writes_);
    }
    for (const RemoteWrite& write : writes) static_cast<void>(written(write.ram_offset, write.size));
}

}  // namespace doppel::engine::interpret
