#include "bus/clock.h"

#include <gtest/gtest.h>

#include <thread>

#include "bus/manual_clock.h"

namespace doppel::bus {
namespace {

TEST(HostClock, StartsAtZeroAndRises)
{
    auto loop = base::EventLoop::create();
    ASSERT_TRUE(loop);
    auto clock = HostVmClock::create(**loop);
    ASSERT_TRUE(clock);
    EXPECT_LT((*clock)->now_ns(), ns_per_second);
    EXPECT_GT((*clock)->tsc_hz(), 100'000'000u);
    const auto first = (*clock)->now_ns();
    const auto first_tsc = (*clock)->tsc();
    std::this_thread::sleep_for(std::chrono::milliseconds{2});
    EXPECT_GE((*clock)->now_ns(), first + 2'000'000);
    EXPECT_GT((*clock)->tsc(), first_tsc);
}

TEST(HostClock, PauseStopsTimeAndTimers)
{
    auto loop = base::EventLoop::create();
    auto clock = HostVmClock::create(**loop);
    int fired = 0;
    std::uint64_t fired_at = 0;
    auto timer = (*clock)->create_timer([&] {
        ++fired;
        fired_at = (*clock)->now_ns();
        (*loop)->stop();
    });
    const auto deadline = (*clock)->now_ns() + 5'000'000;
    timer->arm(deadline);
    (*clock)->pause();
    const auto stopped = (*clock)->now_ns();
    const auto stopped_tsc = (*clock)->tsc();
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
    EXPECT_EQ((*clock)->now_ns(), stopped);
    EXPECT_EQ((*clock)->tsc(), stopped_tsc);
    (*clock)->resume();
    EXPECT_LT((*clock)->now_ns(), stopped + 8'000'000);
    (*loop)->run();
    EXPECT_EQ(fired, 1);
    EXPECT_GE(fired_at, deadline);
}

TEST(HostClock, PastDeadlineFiresAndCancelledDoesNot)
{
    auto loop = base::EventLoop::create();
    auto clock = HostVmClock::create(**loop);
    bool cancelled_fired = false;
    auto cancelled = (*clock)->create_timer([&] { cancelled_fired = true; });
    auto timer = (*clock)->create_timer([&] { (*loop)->stop(); });
    auto never = (*clock)->create_timer([&] { cancelled_fired = true; });
    cancelled->arm(0);
    cancelled->cancel();
    never->arm(~std::uint64_t{0});
    timer->arm(0);
    (*loop)->run();
    EXPECT_FALSE(cancelled_fired);
}

TEST(ManualClock, FiresInOrderAtTheirTimes)
{
    ManualClock clock;
    std::vector<std::uint64_t> times;
    auto late = clock.create_timer([&] { times.push_back(clock.now_ns()); });
    std::unique_ptr<Timer> early;
    early = clock.create_timer([&] {
        times.push_back(clock.now_ns());
        if (times.size() < 3) early->arm(clock.now_ns() + 10);
    });
    late->arm(100);
    early->arm(50);
    clock.advance(99);
    EXPECT_EQ(times, (std::vector<std::uint64_t>{50, 60, 70}));
    clock.advance(1);
    EXPECT_EQ(times.back(), 100u);
    EXPECT_EQ(clock.now_ns(), 100u);
}

TEST(Ticks, RoundAndSaturate)
{
    EXPECT_EQ(ns_to_ticks(ns_per_second, 1'193'182), 1'193'182u);
    EXPECT_EQ(ticks_to_ns(1, 1'193'182), 839u);
    EXPECT_EQ(mul_div(~std::uint64_t{0}, 4, 2), ~std::uint64_t{0});
}

}  // namespace
}  // namespace doppel::bus
