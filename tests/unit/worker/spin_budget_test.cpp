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
