#include <sys/mman.h>

#include <utility>

#include "engine/interpret/thunk/thunk.h"

namespace doppel::engine::interpret {

using thunk::Arena;
using thunk::Thunk;

ThunkCache::ThunkCache(Arena arena, base::MappedRegion bounce)
    : arena_(std::move(arena)), bounce_(std::move(bounce)), slots_(slots)
{
}

base::Result<std::unique_ptr<ThunkCache>> ThunkCache::create()
{
    if (!thunk::install_host_fault_handler()) {
        return base::host_error("Cannot install a signal handler for faults of native thunks");
    }
    Arena arena = TRY(Arena::create(arena_size));
    // Two pages: an operand that begins at the end of one goes on into the next.
    base::MappedRegion bounce =
        TRY(base::MappedRegion::map(2 * base::page_size, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS));
    return std::unique_ptr<ThunkCache>{new ThunkCache{std::move(arena), std::move(bounce)}};
}

Thunk* ThunkCache::find(const std::string& key)
{
    const auto found = index_.find(key);
    return found == index_.end() ? nullptr : found->second;
}

Thunk* ThunkCache::add(const std::string& key, std::span<const std::uint8_t> code,
                       std::size_t fault_exit)
{
    const std::uint8_t* at = used_ < slots_.size() ? arena_.place(code) : nullptr;
    if (at == nullptr) {
        index_.clear();
        for (Thunk& slot : slots_) slot = Thunk{};
        used_ = 0;
        arena_.clear();
        ++flushes_;
        at = arena_.place(code);
        ASSERT(at != nullptr);
    }
    Thunk& slot = slots_[used_++];
    slot = Thunk{};
    slot.id = next_id_++;
    slot.begin = at;
    slot.end = at + code.size();
    slot.fault_exit = at + fault_exit;
    // SAFETY: place() returned executable memory that holds a complete routine with the
    // System V calling convention; the slot is forgotten before the memory is reused.
    if (!code.empty()) slot.enter = reinterpret_cast<Thunk::Entry>(reinterpret_cast<std::uintptr_t>(at));
    index_.emplace(key, &slot);
    return &slot;
}

void destroy_thunks(Core& core) noexcept
{
    delete core.thunks;
    core.thunks = nullptr;
}

}  // namespace doppel::engine::interpret
