#include "engine/translate/worker/address_space.h"

#include <gtest/gtest.h>

namespace doppel::engine::translate {
namespace {

TEST(AddressSpace, AcceptsWhatTheKernelMakesOfALaunch)
{
    EXPECT_TRUE(check_address_space("60000000-60003000 r--p 00000000 00:01 6 /memfd:doppel-worker\n"
                                    "10000000000-10020000000 rw-s 00000000 00:01 3 /memfd:doppel-ram\n"
                                    "7fbffe219000-7fbffe29a000 rw-p 00000000 00:00 0 \n"
                                    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n"));
}

TEST(AddressSpace, NamesWhatIsInTheWay)
{
    const char* const bad[] = {
        "7f7ffe219000-7fbffe29a000 rw-p 00000000 00:00 0 low\n",
        "7fbffe219000-7fc000001000 rw-p 00000000 00:00 0 high\n",
        "600000000000-600000001000 rw-p 00000000 00:00 0 between\n",
        "7fffff000000-7fffff001000 rw-p 00000000 00:00 0 window\n",
        "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n",
        "nonsense\n",
    };
    for (const char* text : bad) {
        const auto checked = check_address_space(text);
        ASSERT_FALSE(checked) << text;
        EXPECT_NE(checked.error().text().find(std::string{text}.substr(0, 8)), std::string::npos);
    }
}

}  // namespace
}  // namespace doppel::engine::translate
