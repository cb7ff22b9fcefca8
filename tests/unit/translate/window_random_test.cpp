// The window's promise under random guests.
#include <random>

#include "window_guest.h"

namespace doppel::engine::translate::test {
namespace {

TEST(WindowRandom, ShowsOnlyWhatATlbCouldHold)
{
    for (unsigned seed = 0; seed < 60; ++seed) {
        SCOPED_TRACE(seed);
        RandomGuest{seed, std::mt19937_64{seed}}.run(400);
        if (testing::Test::HasFailure()) break;
    }
}

}  // namespace
}  // namespace doppel::engine::translate::test
