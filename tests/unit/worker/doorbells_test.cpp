// The table of doorbells that VMM and worker share.
#include "engine/translate/worker/doorbells.h"

#include <gtest/gtest.h>

#include <thread>

namespace doppel::engine::translate {
namespace {

using bus::DoorbellAddress, bus::Space;

TEST(BoundDoorbells, FollowTheTable)
{
    DoorbellTable table{};
    BoundDoorbells bound{table};
    EXPECT_FALSE(bound.find(Space::memory, 0, 0, 0));
    const DoorbellAddress memory{Space::memory, 0x1'0000'0002, 2, std::nullopt};
    const DoorbellAddress value{Space::memory, 0xf000, 8, ~std::uint64_t{0}};
    const DoorbellAddress port{Space::port, 0xf000, 1, 0};
    write_doorbell(table, 3, &memory);
    write_doorbell(table, 63, &value);
    write_doorbell(table, 0, &port);
    EXPECT_EQ(bound.find(Space::memory, 0x1'0000'0002, 2, 0x1234), 3u);
    EXPECT_EQ(bound.find(Space::memory, 0xf000, 8, ~std::uint64_t{0}), 63u);
    EXPECT_EQ(bound.find(Space::port, 0xf000, 1, 0), 0u);
    EXPECT_FALSE(bound.find(Space::memory, 0x1'0000'0002, 4, 0x1234));
    EXPECT_FALSE(bound.find(Space::memory, 0x2, 2, 0x1234));
    EXPECT_FALSE(bound.find(Space::memory, 0xf000, 8, 1));
    EXPECT_FALSE(bound.find(Space::port, 0xf000, 1, 1));
    EXPECT_FALSE(bound.find(Space::memory, 0xf000, 1, 0));
    write_doorbell(table, 3, nullptr);
    EXPECT_FALSE(bound.find(Space::memory, 0x1'0000'0002, 2, 0x1234));
    EXPECT_EQ(bound.find(Space::port, 0xf000, 1, 0), 0u);
}

TEST(BoundDoorbells, NothingIsFoundWhileAnEntryIsBeingWritten)
{
    DoorbellTable table{};
    BoundDoorbells bound{table};
    const DoorbellAddress port{Space::port, 0x10, 1, std::nullopt};
    write_doorbell(table, 0, &port);
    ASSERT_TRUE(bound.find(Space::port, 0x10, 1, 5));
    table.version.fetch_add(1);
    EXPECT_FALSE(bound.find(Space::port, 0x10, 1, 5));
    table.version.fetch_add(1);
    EXPECT_TRUE(bound.find(Space::port, 0x10, 1, 5));
}

// One doorbell is at A with value A or at B with value B, and goes to and fro: never at A with B's.
TEST(BoundDoorbells, NoHalfWrittenEntryIsSeen)
{
    constexpr std::uint64_t a = 0x1111'1111'1111, b = 0x2222'2222'2222;
    DoorbellTable table{};
    std::atomic<bool> done{false};
    std::thread writer{[&] {
        for (unsigned i = 0; i < 300'000; ++i) {
            const std::uint64_t at = i % 2 == 0 ? a : b;
            const DoorbellAddress address{Space::memory, at, 8, at};
            write_doorbell(table, 5, &address);
        }
        done = true;
    }};
    BoundDoorbells bound{table};
    unsigned found = 0;
    while (!done) {
        found += bound.find(Space::memory, a, 8, a) == 5u ? 1 : 0;
        EXPECT_FALSE(bound.find(Space::memory, a, 8, b));
        EXPECT_FALSE(bound.find(Space::memory, b, 8, a));
    }
    writer.join();
    EXPECT_EQ(bound.find(Space::memory, b, 8, b), 5u);
}

}  // namespace
}  // namespace doppel::engine::translate
