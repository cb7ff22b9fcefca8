#include "engine/translate/space/process_switches.h"

#include <gtest/gtest.h>

namespace doppel::engine::translate {
namespace {

constexpr std::uint64_t turn_ticks = 10'000;

class Guest {
public:
    // Stays of so many turns each, so far apart.
    void stays(unsigned count, unsigned turns, std::uint64_t ticks = turn_ticks)
    {
        for (unsigned stay = 0; stay < count; ++stay) {
            for (unsigned turn = 0; turn < turns; ++turn) {
                switches.turn(turn != 0, tsc_);
                tsc_ += ticks;
            }
        }
    }
    ProcessSwitches switches;

private:
    std::uint64_t tsc_ = 0;
};

TEST(ProcessSwitches, AreFrequentWhereStaysAreShort)
{
    Guest guest;
    EXPECT_FALSE(guest.switches.frequent());
    guest.stays(5, 2);
    EXPECT_FALSE(guest.switches.frequent()) << "a few are nothing yet";
    guest.stays(100, 2);
    EXPECT_TRUE(guest.switches.frequent());
    guest.stays(100, ProcessSwitches::few + 2);
    EXPECT_FALSE(guest.switches.frequent());
}

TEST(ProcessSwitches, EndWithOneLongStay)
{
    Guest guest;
    guest.stays(100, 2);
    ASSERT_TRUE(guest.switches.frequent());
    guest.stays(1, 4 * ProcessSwitches::few + 1);
    EXPECT_FALSE(guest.switches.frequent());
}

TEST(ProcessSwitches, AreNotTheSlicesOfAScheduler)
{
    Guest guest;
    guest.stays(1000, 1, ProcessSwitches::long_ticks + 1);
    EXPECT_FALSE(guest.switches.frequent());
}

}  // namespace
}  // namespace doppel::engine::translate
