// A guest that changes its page tables and touches memory as the input says.
#include "unit/translate/window_guest.h"

using namespace doppel::engine::translate::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    testing::GTEST_FLAG(break_on_failure) = true;
    if (size < 8) return 0;
    std::size_t at = 1;
    // Two bytes a decision; zeros when they are used up.
    const auto next = [&]() -> std::uint64_t {
        if (at + 2 > size) return 0;
        const std::uint64_t value = data[at] | std::uint64_t{data[at + 1]} << 8;
        at += 2;
        // Small numbers as they are; large ones reach every page.
        return value < 0xff00 ? value : value * 0x9e3779b97f4a7c15;
    };
    RandomGuest{data[0] % 60u, next}.run(static_cast<int>(std::min<std::size_t>(size / 6, 400)));
    return 0;
}
