// Where doorbells are bound, as the VMM tells the worker: see bus/doorbell.h. The worker has the
// eventfds since its start (link/arena.h), by the same index.
//
// The VMM writes, any thread at a time under its lock; the worker reads. `version` is odd while
// an entry is being written: the worker then takes no write for a doorbell's, and the VMM's
// device gets it from the bus.
#pragma once

#include <atomic>
#include <cstdint>

#include "bus/doorbell_set.h"

namespace doppel::engine::translate {

inline constexpr unsigned doorbell_count = bus::DoorbellSet::most;

struct DoorbellEntry {
    static constexpr std::uint32_t size_mask = 0xf;  // 0: bound nowhere
    static constexpr std::uint32_t port = 0x10;
    static constexpr std::uint32_t one_value = 0x20;
    std::atomic<std::uint32_t> what;
    std::atomic<std::uint64_t> address, value;
};

struct DoorbellTable {
    std::atomic<std::uint32_t> version;
    DoorbellEntry entries[doorbell_count];
};

// VMM. nullptr: bound nowhere.
inline void write_doorbell(DoorbellTable& table, unsigned index, const bus::DoorbellAddress* bound)
{
    const std::uint32_t version = table.version.load(std::memory_order_relaxed);
    table.version.store(version | 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    DoorbellEntry& entry = table.entries[index];
    std::uint32_t what = 0;
    if (bound != nullptr) {
        what = bound->size | (bound->space == bus::Space::port ? DoorbellEntry::port : 0) |
               (bound->value ? DoorbellEntry::one_value : 0);
        entry.address.store(bound->address, std::memory_order_relaxed);
        entry.value.store(bound->value.value_or(0), std::memory_order_relaxed);
    }
    entry.what.store(what, std::memory_order_relaxed);
    table.version.store((version | 1) + 1, std::memory_order_release);
}

}  // namespace doppel::engine::translate
