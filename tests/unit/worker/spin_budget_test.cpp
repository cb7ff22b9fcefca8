#include "engine/translate/link/spin_budget.h"

#include <gtest/gtest.h>

namespace doppel::engine::translate {
namespace {

constexpr std::uint32_t many = 1000;

TEST(LookFor, SeesAndStopsLooking)
{
    SpinBudget budget{many};
    const std::atomic<std::uint32_t> unknown{0};
    unsigned looks = 0;
    EXPECT_TRUE(look_for(budget, many, unknown, [&] { return ++looks == 3; }));
    EXPECT_EQ(looks, 3u);
    looks = 0;
    EXPECT_FALSE(look_for(budget, 10, unknown, [&] { return ++looks == many; }));
    EXPECT_LE(looks, 11u);
}

TEST(SpinBudget, LooksAsLongAsWaitsAreWorthIt)
{
    constexpr std::uint64_t brief = 10'000, forever = 10'000'000;
    SpinBudget budget{many};
    EXPECT_EQ(budget.looks(1), many);
    for (int i = 0; i < 10; ++i) budget.waited(brief);
    EXPECT_EQ(budget.looks(1), many);
    for (int i = 0; i < 10; ++i) budget.waited(forever);
    const std::uint32_t least = budget.looks(1);
    EXPECT_LT(least, many / 10);
    EXPECT_GT(least, 0u) << "a reply that is there already is always seen";
    for (int i = 0; i < 40; ++i) budget.waited(brief);
    EXPECT_EQ(budget.looks(1), many);
}

TEST(SpinBudget, APreemptedThreadLooksLittleForAWhile)
{
    SpinBudget budget{many};
    EXPECT_TRUE(budget.looked(1'000, 2'000));
    EXPECT_TRUE(budget.looked(2'000, 150'000)) << "a device's thread was here";
    EXPECT_EQ(budget.looks(150'000), many);
    EXPECT_FALSE(budget.looked(200'000, 5'000'000));
    EXPECT_LT(budget.looks(5'000'001), many / 10);
    EXPECT_EQ(budget.looks(500'000'000), many);
}

TEST(LookFor, NotWhereTheOtherSideWantsTheSameProcessor)
{
    cpu_set_t before, here;
    ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&here);
    CPU_SET(static_cast<unsigned>(::sched_getcpu()), &here);
    ASSERT_EQ(::sched_setaffinity(0, sizeof here, &here), 0);
    SpinBudget budget{many};
    const std::atomic<std::uint32_t> same{this_processor()};
    unsigned looks = 0;
    EXPECT_FALSE(look_for(budget, many, same, [&] { return ++looks == many; }));
    EXPECT_EQ(looks, 1u);
    EXPECT_EQ(looks_in(1000), 0u);  // this process has one processor now
    ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
}

}  // namespace
}  // namespace doppel::engine::translate
