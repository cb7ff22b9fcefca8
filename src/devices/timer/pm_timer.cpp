#include "devices/timer/pm_timer.h"

#include "base/bytes.h"
#include "bus/ticks.h"

namespace doppel::devices {

void PmTimer::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    const std::uint64_t mask = width_ == Width::bits_24 ? 0xff'ffff : 0xffff'ffff;
    const std::uint64_t value = bus::ns_to_ticks(clock_.now_ns(), hz) & mask;
    base::store_bytes(data, value >> (8 * (offset & 3)));
}

}  // namespace doppel::devices
