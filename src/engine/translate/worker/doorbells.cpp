#include "engine/translate/worker/doorbells.h"

namespace doppel::engine::translate {

std::optional<unsigned> BoundDoorbells::find(bus::Space space, std::uint64_t address, unsigned size,
                                             std::uint64_t value) noexcept
{
    const std::uint32_t version = table_.version.load(std::memory_order_acquire);
    if (version != version_) copy(version);
    for (unsigned i = 0; i < count_; ++i) {
        if (bound_[i].at.takes(space, address, size, value)) return bound_[i].index;
    }
    return std::nullopt;
}

void BoundDoorbells::copy(std::uint32_t version) noexcept
{
    count_ = 0;
    if ((version & 1) != 0) return;
    unsigned count = 0;
    for (unsigned i = 0; i < doorbell_count; ++i) {
        const DoorbellEntry& entry = table_.entries[i];
        const std::uint32_t what = entry.what.load(std::memory_order_relaxed);
        if ((what & DoorbellEntry::size_mask) == 0) continue;
        Bound& bound = bound_[count++];
        bound.index = i;
        bound.at.space = (what & DoorbellEntry::port) != 0 ? bus::Space::port : bus::Space::memory;
        bound.at.address = entry.address.load(std::memory_order_relaxed);
        bound.at.size = what & DoorbellEntry::size_mask;
        bound.at.value.reset();
        if ((what & DoorbellEntry::one_value) != 0) {
            bound.at.value = entry.value.load(std::memory_order_relaxed);
        }
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    if (table_.version.load(std::memory_order_relaxed) != version) return;
    count_ = count;
    version_ = version;
}

}  // namespace doppel::engine::translate
