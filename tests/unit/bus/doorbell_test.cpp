#include "bus/doorbell_set.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>
#include <vector>

namespace doppel::bus {
namespace {

DoorbellAddress at(std::uint64_t address, unsigned size = 2, std::optional<std::uint64_t> value = {})
{
    return {Space::memory, address, size, value};
}

bool readable(const Doorbell& doorbell)
{
    pollfd event{doorbell.fd(), POLLIN, 0};
    return ::poll(&event, 1, 0) == 1;
}

TEST(Doorbell, RingsForItsWritesAlone)
{
    DoorbellSet set;
    const auto any = std::move(set.create()).value();
    const auto one = std::move(set.create()).value();
    EXPECT_FALSE(set.ring(Space::memory, 0x1000, 2, 0));
    ASSERT_TRUE(any->bind(at(0x1000)));
    ASSERT_TRUE(one->bind({Space::port, 0x1000, 4, 7}));
    EXPECT_TRUE(set.ring(Space::memory, 0x1000, 2, 0));
    EXPECT_TRUE(readable(*any));
    EXPECT_FALSE(readable(*one));
    EXPECT_TRUE(set.ring(Space::memory, 0x1000, 2, 0xffff));
    EXPECT_TRUE(any->take());
    EXPECT_FALSE(any->take());
    EXPECT_TRUE(set.ring(Space::port, 0x1000, 4, 7));
    EXPECT_TRUE(one->take());
    EXPECT_FALSE(set.ring(Space::port, 0x1000, 4, 8));
    EXPECT_FALSE(set.ring(Space::memory, 0x1000, 4, 0));
    EXPECT_FALSE(set.ring(Space::memory, 0x1001, 2, 0));
    EXPECT_FALSE(readable(*any) || readable(*one));
    EXPECT_EQ(set.rung(), 3u);
    any->ring();  // the device's own write(), for what came by the bus
    EXPECT_TRUE(any->take());
}

TEST(Doorbell, Moves)
{
    DoorbellSet set;
    const auto doorbell = std::move(set.create()).value();
    const int fd = doorbell->fd();
    ASSERT_TRUE(doorbell->bind(at(0x1000)));
    ASSERT_TRUE(doorbell->bind(at(0x2000)));
    EXPECT_FALSE(set.ring(Space::memory, 0x1000, 2, 0));
    EXPECT_TRUE(set.ring(Space::memory, 0x2000, 2, 0));
    doorbell->unbind();
    doorbell->unbind();
    EXPECT_FALSE(set.ring(Space::memory, 0x2000, 2, 0));
    ASSERT_TRUE(doorbell->bind(at(0x2000)));
    EXPECT_EQ(doorbell->fd(), fd);
    EXPECT_TRUE(doorbell->take());
}

TEST(Doorbell, AddressesThatAGuestMayChooseAndCannotBe)
{
    DoorbellSet set;
    const auto doorbell = std::move(set.create()).value();
    const std::uint64_t last = ~std::uint64_t{0};
    const DoorbellAddress bad[] = {at(0, 0), at(0, 3), at(0, 16), at(last, 2), at(last - 6, 8),
                                   at(0, 1, 0x100), at(0, 4, 0x1'0000'0000),
                                   {Space::port, 0xffff, 2, {}}, {Space::port, 0x10000, 1, {}},
                                   {Space::port, 0, 8, {}}};
    for (const DoorbellAddress& address : bad) {
        // Bound nowhere, not where it was.
        ASSERT_TRUE(doorbell->bind(at(0x1000)));
        EXPECT_FALSE(doorbell->bind(address));
        EXPECT_FALSE(set.ring(Space::memory, 0x1000, 2, 0));
    }
    for (const DoorbellAddress& address :
         {at(last, 1), at(last - 7, 8), at(0, 8, last), DoorbellAddress{Space::port, 0xffff, 1, {}}}) {
        EXPECT_TRUE(doorbell->bind(address));
    }
}

TEST(Doorbell, OnlyOneTakesAWrite)
{
    DoorbellSet set;
    const auto first = std::move(set.create()).value();
    const auto second = std::move(set.create()).value();
    ASSERT_TRUE(first->bind(at(0x1000, 2, 1)));
    EXPECT_FALSE(second->bind(at(0x1000, 2, 1)));
    EXPECT_FALSE(second->bind(at(0x1000, 2)));
    EXPECT_TRUE(second->bind(at(0x1000, 2, 2)));
    EXPECT_TRUE(second->bind(at(0x1000, 4)));
    EXPECT_TRUE(first->bind(at(0x1000, 2)));
    EXPECT_TRUE(set.ring(Space::memory, 0x1000, 2, 1));
    EXPECT_TRUE(first->take());
}

TEST(Doorbell, AreLimitedAndCanBeHadAgain)
{
    DoorbellSet set;
    std::vector<std::unique_ptr<Doorbell>> all;
    for (unsigned i = 0; i < DoorbellSet::most; ++i) {
        all.push_back(std::move(set.create()).value());
        ASSERT_TRUE(all.back()->bind(at(0x1000 + 2 * i)));
        all.back()->ring();
    }
    EXPECT_FALSE(set.create());
    all[5].reset();
    EXPECT_FALSE(set.ring(Space::memory, 0x1000 + 10, 2, 0));
    all[5] = std::move(set.create()).value();
    EXPECT_FALSE(all[5]->take()) << "the one before it was rung";
    EXPECT_TRUE(all[6]->take());
}

TEST(Doorbell, ThreadsBindWhileOthersRing)
{
    DoorbellSet set;
    std::atomic<bool> done{false};
    std::thread guest{[&] {
        while (!done) {
            for (unsigned i = 0; i < 8; ++i) static_cast<void>(set.ring(Space::memory, 2 * i, 2, 0));
        }
    }};
    for (unsigned round = 0; round < 2000; ++round) {
        const auto doorbell = std::move(set.create()).value();
        ASSERT_TRUE(doorbell->bind(at(2 * (round % 8))));
        if (round % 3 == 0) doorbell->unbind();
    }
    done = true;
    guest.join();
}

TEST(Doorbell, RingsSayWhichProcessorToLeave)
{
    EXPECT_FALSE(Rings{});
    EXPECT_EQ(Rings{ring_value(0)}.processor(), 0u);
    EXPECT_TRUE(Rings{ring_value(0)});
    EXPECT_EQ(Rings{ring_value(3)}.processor(), 3u);
    EXPECT_EQ(Rings{ring_value(3) + ring_value(3)}.processor(), 3u) << "merged";
    EXPECT_EQ(Rings{ring_value(1) + ring_value(2)}.processor(), 0u) << "they differ";
    EXPECT_EQ(Rings{~std::uint64_t{1}}.processor(), 0u);
    EXPECT_TRUE(Rings{std::uint64_t{1} << 32}) << "whoever wrote that";
}

}  // namespace
}  // namespace doppel::bus
