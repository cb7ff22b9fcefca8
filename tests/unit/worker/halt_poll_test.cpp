#include "engine/translate/worker/halt_poll.h"

#include <gtest/gtest.h>

namespace doppel::engine::translate {
namespace {

TEST(HaltPoll, LooksOnlyWhereHaltsEndSoon)
{
    HaltPoll poll;
    EXPECT_EQ(poll.window_ns(), 0u);
    for (int i = 0; i < 10; ++i) poll.ended(4'000'000, false);  // a guest that only has its tick
    EXPECT_EQ(poll.window_ns(), 0u);
    // A disk: it grows until it covers the halts, and no further.
    for (int i = 0; i < 10; ++i) poll.ended(70'000, false);
    EXPECT_GE(poll.window_ns(), 70'000u);
    EXPECT_LE(poll.window_ns(), 140'000u);
    poll.ended(60'000, false);
    EXPECT_GE(poll.window_ns(), 70'000u);
}

TEST(HaltPoll, StopsWhenNothingComes)
{
    HaltPoll poll;
    for (int i = 0; i < 10; ++i) poll.ended(HaltPoll::most_ns, false);
    EXPECT_EQ(poll.window_ns(), HaltPoll::most_ns) << "bounded";
    std::uint64_t looked = 0;
    for (int i = 0; i < 10; ++i) {
        looked += poll.window_ns();
        poll.ended(10'000'000, false);
    }
    EXPECT_EQ(poll.window_ns(), 0u);
    EXPECT_LT(looked, 300'000u);
}

TEST(HaltPoll, OthersWhoNeedTheProcessorGetIt)
{
    HaltPoll poll;
    for (int i = 0; i < 10; ++i) poll.ended(50'000, false);
    EXPECT_NE(poll.window_ns(), 0u);
    poll.contended();
    EXPECT_EQ(poll.window_ns(), 0u);
}

TEST(HaltPoll, LooksLongerBesideBusyDevices)
{
    constexpr std::uint64_t halt = 2 * HaltPoll::most_ns;
    HaltPoll poll;
    for (int i = 0; i < 10; ++i) poll.ended(halt, true);
    EXPECT_GE(poll.window_ns(), halt);
    EXPECT_LE(poll.window_ns(), HaltPoll::most_beside_devices_ns);
    for (int i = 0; i < 10; ++i) poll.ended(halt, false);
    EXPECT_EQ(poll.window_ns(), 0u) << "they are not busy any more";
}

}  // namespace
}  // namespace doppel::engine::translate
