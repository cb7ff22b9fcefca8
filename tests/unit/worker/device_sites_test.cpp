#include "engine/translate/worker/device_sites.h"

#include <gmock/gmock.h>

namespace doppel::engine::translate {
namespace {

using testing::IsEmpty, testing::UnorderedElementsAre;

constexpr std::uint64_t page = 0x5000, site = page + 0x123;

bool learn(DeviceSites& sites, std::uint64_t at, unsigned faults = DeviceSites::faults_first)
{
    for (unsigned i = 1; i < faults; ++i) {
        if (sites.faulted(at)) return false;
    }
    return sites.faulted(at);
}

TEST(DeviceSites, AreLearnedFromFaultsAndKnownByPage)
{
    DeviceSites sites;
    EXPECT_FALSE(sites.faulted(site));
    EXPECT_THAT(sites.learned(page), IsEmpty());
    EXPECT_TRUE(sites.faulted(site));
    EXPECT_TRUE(learn(sites, page + 0xfff));
    EXPECT_THAT(sites.learned(page), UnorderedElementsAre(0x123, 0xfff));
    EXPECT_THAT(sites.learned(page + 0x1000), IsEmpty());
    EXPECT_EQ(sites.learned_in_all(), 2u);
}

TEST(DeviceSites, StayWhileTheyAccessDevicesOftenEnough)
{
    DeviceSites sites;
    ASSERT_TRUE(learn(sites, site));
    for (unsigned i = 0; i < 10'000; ++i) {
        ASSERT_TRUE(sites.interpreted(site, i % DeviceSites::credit_each == 0)) << i;
    }
}

TEST(DeviceSites, AreForgottenWhenTheyAccessRamAndThenLearnedMoreSlowly)
{
    DeviceSites sites;
    unsigned needed = DeviceSites::faults_first;
    for (unsigned round = 0; round < 12; ++round) {
        ASSERT_TRUE(learn(sites, site, needed)) << round;
        unsigned interpreted = 1;
        while (sites.interpreted(site, false)) ++interpreted;
        EXPECT_EQ(interpreted, DeviceSites::credit_each);
        EXPECT_THAT(sites.learned(page), IsEmpty());
        needed = std::min(needed * 2, DeviceSites::faults_most);
    }
    EXPECT_EQ(sites.forgotten(), 12u);
}

TEST(DeviceSites, ABlockMadeBeforeTheyWereForgottenIsMadeAnew)
{
    DeviceSites sites;
    EXPECT_FALSE(sites.interpreted(site, true));
    ASSERT_TRUE(learn(sites, page + 1));
    sites.forget_page(page);
    EXPECT_THAT(sites.learned(page), IsEmpty());
    EXPECT_FALSE(sites.interpreted(page + 1, true));
}

TEST(DeviceSites, AreBounded)
{
    DeviceSites sites;
    for (std::uint64_t i = 0; i < 3 * DeviceSites::most; ++i) {
        ASSERT_TRUE(learn(sites, i * 0x800)) << i;
    }
    std::size_t learned = 0;
    for (std::uint64_t at = 0; at < 3 * DeviceSites::most * 0x800; at += 0x1000) {
        learned += sites.learned(at).size();
    }
    EXPECT_GT(learned, 0u);
    EXPECT_LE(learned, DeviceSites::most);
}

}  // namespace
}  // namespace doppel::engine::translate
