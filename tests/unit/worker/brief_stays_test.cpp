#include "engine/translate/worker/brief_stays.h"

#include <gtest/gtest.h>

namespace doppel::engine::translate {
namespace {

constexpr std::uint64_t here = 0x401000, there = 0x7f12'3456'7890;

unsigned returns_until_expected(BriefStays& stays, std::uint64_t rip)
{
    unsigned returns = 1;
    while (!stays.expected(rip)) ++returns;
    return returns;
}

TEST(BriefStays, AreExpectedOfPlacesReturnedToAgainAndAgain)
{
    BriefStays stays;
    EXPECT_EQ(returns_until_expected(stays, here), BriefStays::first_wait + 1);
    stays.tried(here, true);
    EXPECT_TRUE(stays.expected(here));
    EXPECT_FALSE(stays.expected(there)) << "another place";
}

TEST(BriefStays, AreTriedLessOftenTheMoreOftenTheyAreNot)
{
    BriefStays stays;
    static_cast<void>(returns_until_expected(stays, here));
    unsigned before = BriefStays::first_wait;
    for (unsigned failure = 0; failure < 8; ++failure) {
        stays.tried(here, false);
        const unsigned now = returns_until_expected(stays, here);
        EXPECT_GE(now, before);
        EXPECT_LE(now, BriefStays::longest_wait + 1);
        before = now;
    }
    EXPECT_EQ(before, BriefStays::longest_wait + 1);
    // What has become brief is believed again.
    for (unsigned success = 0; success < 16; ++success) stays.tried(here, true);
    stays.tried(here, false);
    EXPECT_LE(returns_until_expected(stays, here), BriefStays::first_wait * BriefStays::growth + 1);
}

}  // namespace
}  // namespace doppel::engine::translate
