#include "engine/translate/space/device_load.h"

#include <gtest/gtest.h>

namespace doppel::engine::translate {
namespace {

// A time at which the load may count: past the moment in which it never does.
constexpr std::uint64_t start = 10 * HostMoment::every_ticks + HostMoment::ticks;

TEST(DeviceLoad, IsRingsWithoutHalts)
{
    DeviceLoad load;
    for (unsigned i = 0; i < 10 * DeviceLoad::many; ++i) {
        load.rang(start + i);
        EXPECT_FALSE(load.busy(start + i));
        load.halted();
    }
    for (unsigned i = 1; i <= DeviceLoad::many; ++i) {
        EXPECT_FALSE(load.busy(start));
        load.rang(start);
    }
    EXPECT_TRUE(load.busy(start));
    EXPECT_TRUE(load.busy(start + DeviceLoad::lasts_ticks - 1));
    EXPECT_FALSE(load.busy(start + DeviceLoad::lasts_ticks));
}

TEST(DeviceLoad, IsNotARingNowAndThen)
{
    DeviceLoad load;
    std::uint64_t tsc = start;
    for (unsigned i = 0; i < 100; ++i, tsc += DeviceLoad::window_ticks + 1) {
        load.rang(tsc);
        EXPECT_FALSE(load.busy(tsc));
    }
}

TEST(DeviceLoad, LeavesTheHostAMoment)
{
    DeviceLoad load;
    unsigned moments = 0;
    bool busy = false;
    for (std::uint64_t at = 0; at < 4 * HostMoment::every_ticks; at += HostMoment::ticks / 8) {
        load.rang(start + at);
        const bool now = load.busy(start + at);
        moments += busy && !now ? 1 : 0;
        busy = now;
    }
    EXPECT_EQ(moments, 4u);
}

}  // namespace
}  // namespace doppel::engine::translate
