#include "bus/bus.h"

#include <algorithm>

#include "base/assert.h"

namespace doppel::bus {

void Bus::claim(Space space, std::uint64_t start, std::uint64_t size, BusDevice& device)
{
    ASSERT(size != 0);
    Ranges& all = ranges(space);
    const auto next = all.lower_bound(start);
    ASSERT(next == all.end() || start + size <= next->first);
    ASSERT(next == all.begin() ||
           std::prev(next)->first + std::prev(next)->second.size <= start);
    all[start] = {size, &device};
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
