// Kernel images, initrds and command lines from nobody knows where: planning must refuse or
// give a plan that fits the memory map without overlaps.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "machine/boot/boot.h"

namespace {

using namespace doppel;

void check(const machine::boot::BootPlan& plan, const machine::MemoryMap& map)
{
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (const auto& segment : plan.segments) {
        const auto bytes = segment.bytes();
        if (bytes.empty()) continue;
        const std::uint64_t end = segment.start + bytes.size();
        ASSERT(end > segment.start);
        ASSERT(std::any_of(map.begin(), map.end(), [&](const machine::MemoryRange& range) {
            return range.type == machine::MemoryType::usable && segment.start >= range.start &&
                   end <= range.end();
        }));
        ranges.emplace_back(segment.start, end);
    }
    std::sort(ranges.begin(), ranges.end());
    for (std::size_t i = 1; i < ranges.size(); ++i) ASSERT(ranges[i - 1].second <= ranges[i].first);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    // Two bytes of parameters in front: memory size and the initrd's share of the rest.
    if (size < 2) return 0;
    const std::uint64_t ram = std::uint64_t{1} << (20 + data[0] % 14);
    const auto rest = std::as_bytes(std::span{data + 2, size - 2});
    const std::size_t initrd = rest.size() * (data[1] % 16) / 32;
    machine::boot::BootRequest request;
    request.kernel = rest.first(rest.size() - initrd);
    request.kernel_name = "kernel";
    if ((data[1] & 0x80) != 0) request.initrd = rest.last(initrd);
    request.initrd_name = "initrd";
    request.cmdline = std::string(data[0], 'x');
    request.memory_map = machine::make_memory_map(ram);
    const auto plan = machine::boot::plan_boot(request);
    if (plan) check(*plan, request.memory_map);
    return 0;
}
