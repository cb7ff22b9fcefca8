// Guest code of any bytes, in every mode.
#include "unit/translate/translation_rules.h"

using namespace doppel::engine::translate;
using namespace doppel::engine::translate::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    testing::GTEST_FLAG(break_on_failure) = true;
    constexpr std::size_t most = 256;
    constexpr std::uint64_t addresses[] = {0xffffffff81000000, 0x7f1234567000, 0x401000, 0xff0};
    if (size < 2) return 0;
    Mode mode;
    mode.user = (data[0] & 1) != 0;
    mode.vector = (data[0] & 2) != 0;
    mode.privileged = mode.user && (data[0] & 4) != 0;
    mode.masked = mode.user && !mode.privileged && (data[0] & 8) != 0;
    mode.gs_free = mode.user && (data[0] & 16) != 0;
    const std::uint64_t rip = addresses[(data[0] >> 6) & 3];
    const std::span<const std::uint8_t> guest{data + 1, std::min(size - 1, most)};
    const Translated block{guest, rip, mode, 32768};
    EXPECT_TRUE(block.done);
    check_records(block, rip, guest.size());
    check_code(block, mode);
    return 0;
}
