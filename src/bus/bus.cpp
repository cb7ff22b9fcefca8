#include "bus/bus.h"

#include <algorithm>

#include "base/assert.h"

namespace doppel::bus {

void DeviceLock::unlock()
{
    for (;;) {
        std::vector<std::function<void()>> tasks;
        if (has_deferred_.load(std::memory_order_relaxed)) {
            const std::lock_guard guard{deferred_mutex_};
            tasks.swap(deferred_);
            has_deferred_.store(false, std::memory_order_relaxed);
        }
        for (const auto& task : tasks) task();
        mutex_.unlock();
        // Who deferred meanwhile found the lock taken; one of us sees the other.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!has_deferred_.load(std::memory_order_relaxed) || !mutex_.try_lock()) return;
    }
}

void DeviceLock::defer(std::function<void()> task)
{
    {
        const std::lock_guard guard{deferred_mutex_};
        deferred_.push_back(std::move(task));
        has_deferred_.store(true, std::memory_order_relaxed);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (mutex_.try_lock()) unlock();
}

bool Bus::try_claim(Space space, std::uint64_t start, std::uint64_t size, BusDevice& device)
{
    ASSERT(size != 0);
    if (start > ~std::uint64_t{0} - size) return false;
    Ranges& all = ranges(space);
    const auto next = all.lower_bound(start);
    if (next != all.end() && start + size > next->first) return false;
    if (next != all.begin() &&
        std::prev(next)->first + std::prev(next)->second.size > start) {
        return false;
    }
    all[start] = {size, &device};
    return true;
}

void Bus::claim(Space space, std::uint64_t start, std::uint64_t size, BusDevice& device)
{
    ASSERT(try_claim(space, start, size, device));
}

void Bus::release(Space space, std::uint64_t start)
{
    ranges(space).erase(start);
}

Bus::Hit Bus::find(Space space, std::uint64_t address) noexcept
{
    Ranges& all = ranges(space);
    auto at = all.upper_bound(address);
    if (at == all.begin()) return {nullptr, 0, 1};
    --at;
    const std::uint64_t offset = address - at->first;
    if (offset >= at->second.size) return {nullptr, 0, 1};
    return {at->second.device, offset, at->second.size - offset};
}

void Bus::read(Space space, std::uint64_t address, std::span<std::byte> data) noexcept
{
    const std::lock_guard guard{mutex_};
    const Hit hit = find(space, address);
    if (hit.device != nullptr && data.size() <= hit.left) {
        hit.device->read(hit.offset, data);
        return;
    }
    for (std::size_t i = 0; i < data.size(); ++i) {
        const Hit byte_hit = find(space, address + i);
        if (byte_hit.device != nullptr) {
            byte_hit.device->read(byte_hit.offset, data.subspan(i, 1));
        } else {
            data[i] = std::byte{0xff};
            ++unclaimed_;
        }
    }
}

void Bus::write(Space space, std::uint64_t address, std::span<const std::byte> data) noexcept
{
    const std::lock_guard guard{mutex_};
    const Hit hit = find(space, address);
    if (hit.device != nullptr && data.size() <= hit.left) {
        hit.device->write(hit.offset, data);
        return;
    }
    for (std::size_t i = 0; i < data.size(); ++i) {
        const Hit byte_hit = find(space, address + i);
        if (byte_hit.device != nullptr) {
            byte_hit.device->write(byte_hit.offset, data.subspan(i, 1));
        } else {
            ++unclaimed_;
        }
    }
}

}  // namespace doppel::bus
