#include "devices/virtio/block/moderation.h"

#include <gtest/gtest.h>

#include <utility>

namespace doppel::devices::virtio {
namespace {

void start(Moderation& moderation, unsigned count)
{
    for (unsigned i = 0; i < count; ++i) moderation.started();
}

TEST(Moderation, FewUnderWayAreToldAtOnce)
{
    Moderation moderation;
    EXPECT_FALSE(moderation.due());
    start(moderation, 4);
    EXPECT_FALSE(moderation.due());
    for (int i = 0; i < 4; ++i) {
        moderation.done(4096);
        EXPECT_TRUE(moderation.due()) << i;
        moderation.interrupted();
        EXPECT_FALSE(moderation.due()) << i;
    }
}

TEST(Moderation, ManyUnderWayWaitForAPartOfThem)
{
    Moderation moderation;
    start(moderation, 32);
    unsigned told = 0;
    for (int i = 0; i < 32; ++i) {
        moderation.done(4096);
        EXPECT_TRUE(moderation.waiting());
        if (!moderation.due()) continue;
        ++told;
        moderation.interrupted();
        EXPECT_FALSE(moderation.waiting());
    }
    EXPECT_FALSE(moderation.waiting()) << "the last ones wait for nobody";
    EXPECT_LE(told, 13u);
    EXPECT_GE(told, 3u);
}

// Steady: as many started as were told.
TEST(Moderation, ASteadyLoadIsToldInBatches)
{
    Moderation moderation;
    start(moderation, 32);
    unsigned told = 0, waiting = 0;
    for (int i = 0; i < 3200; ++i) {
        moderation.done(4096);
        ++waiting;
        if (!moderation.due()) continue;
        moderation.interrupted();
        ++told;
        start(moderation, std::exchange(waiting, 0u));
    }
    EXPECT_GT(told, 3200u / 12);
    EXPECT_LT(told, 3200u / 5);
}

TEST(Moderation, LargeOnesAreToldAtOnce)
{
    Moderation moderation;
    start(moderation, 32);
    moderation.done(4096);
    EXPECT_FALSE(moderation.due());
    moderation.done(128 * 1024);
    EXPECT_TRUE(moderation.due());
    moderation.interrupted();
    moderation.done(4096);
    EXPECT_FALSE(moderation.due()) << "as before it";
}

}  // namespace
}  // namespace doppel::devices::virtio
