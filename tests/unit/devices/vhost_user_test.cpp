// The front end of vhost-user against a back end in this process that dies, lies and stays silent.
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>

#include "devices/virtio/block/registers.h"
#include "devices/virtio/vhost_user/block_kind.h"
#include "devices/virtio/vhost_user/fs_kind.h"
#include "devices/virtio/vhost_user/net_kind.h"
#include "devices/virtio/vhost_user/vhost_user.h"
#include "vhost_user_back_end.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

constexpr std::uint64_t data = 0x80000;

struct Writes final : memory::WriteListener {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> seen;
    void on_write(base::Gpa start, std::uint64_t size) noexcept override
    {
        seen.emplace_back(start.value, size);
    }
    [[nodiscard]] bool has(std::uint64_t start, std::uint64_t size) const
    {
        return std::find(seen.begin(), seen.end(), std::pair{start, size}) != seen.end();
    }
};

struct VhostUserTest : testing::Test {
    VirtioWorld world;
    BackEnd back_end;
    Writes writes;
    std::unique_ptr<PciDriver> driver;
    std::vector<std::unique_ptr<TestDriver>> rings;
    std::function<std::unique_ptr<VhostUserKind>()> kind = [] {
        return std::make_unique<VhostUserBlock>(2);
    };

    VhostUserTest()
    {
        world.memory->add_listener(writes);
        back_end.features |= VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_MQ |
                             VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_F_INDIRECT_DESC;
        back_end.config[0] = std::byte{0x80};
    }
    base::Result<std::unique_ptr<Frontend>> frontend()
    {
        return Frontend::create(
            "test", world.platform,
            [this](base::EventLoop& loop) {
                return VhostUser::create(kind(), std::make_unique<BackEndSource>(back_end), loop);
            },
            ~VIRTIO_F_ACCESS_PLATFORM);
    }
    void start(unsigned queues = 1, std::uint16_t size = 16, Features wanted = 0)
    {
        auto made = frontend();
        ASSERT_TRUE(made.has_value()) << made.error().text();
        driver = std::make_unique<PciDriver>(world, std::move(made).value());
        ASSERT_TRUE(driver->negotiate((driver->offered() & ~VIRTIO_F_RING_PACKED &
                                       ~VIRTIO_F_EVENT_IDX) | wanted));
        for (unsigned i = 0; i < queues; ++i) {
            rings.push_back(std::make_unique<TestDriver>(*world.memory, size, 0,
                                                         0x10000 + 0x10000 * i, 0x40000));
            driver->set_queue(i, rings.back()->address(), 0);
        }
        driver->ready();
        until([&] { return back_end.running(queues - 1); });
    }
    void until(const std::function<bool()>& done)
    {
        for (int i = 0; i < 10000; ++i) {
            if (done()) return;
            driver->pump();
            ::usleep(1000);
        }
        FAIL() << "it did not come to pass";
    }
    std::uint16_t add(const std::vector<Buffer>& buffers, unsigned queue = 0)
    {
        const auto id = rings[queue]->add(buffers);
        EXPECT_TRUE(id.has_value());
        driver->ring(queue);
        return *id;
    }
    // A read of 512 bytes; `number` says where, so that the back end's side can tell it.
    std::uint16_t request(unsigned number)
    {
        return add({{data, 16}, {data + 0x1000 * (number + 1), 512, true},
                            {data + 16 + number, 1, true}});
    }
    void TearDown() override
    {
        back_end.up = false;
        back_end.die();
    }
    // What the back end gets, so many and no more.
    std::vector<BackEnd::Descriptors> chains(std::size_t count, unsigned queue = 0)
    {
        std::vector<BackEnd::Descriptors> all;
        until([&] {
            for (auto& chain : back_end.take(queue)) all.push_back(std::move(chain));
            return all.size() >= count;
        });
        EXPECT_EQ(all.size(), count);
        return all;
    }
    // The back end's requests, by that number.
    std::vector<std::pair<unsigned, std::uint16_t>> taken(std::size_t count)
    {
        std::vector<std::pair<unsigned, std::uint16_t>> all;
        for (const auto& chain : chains(count)) {
            EXPECT_EQ(chain.parts.size(), 3u);
            all.emplace_back((chain.parts.at(1).address - data) / 0x1000 - 1, chain.head);
        }
        return all;
    }
    std::uint64_t counter(const std::string& name)
    {
        base::CounterList list;
        driver->transport.frontend().counters(list);
        for (const auto& [key, value] : list.values()) {
            if (key == "test." + name) return value;
        }
        ADD_FAILURE() << name;
        return 0;
    }
    std::optional<Used> next_used(unsigned queue = 0)
    {
        std::optional<Used> used;
        until([&] { return (used = rings[queue]->take()).has_value(); });
        return used;
    }
};

TEST_F(VhostUserTest, ARequestGoesThereAndBack)
{
    start();
    const std::uint16_t id = request(3);
    const BackEnd::Descriptors chain = chains(1).at(0);
    ASSERT_EQ(chain.parts.size(), 3u);
    EXPECT_EQ(chain.parts[0].address, data);
    EXPECT_EQ(chain.parts[0].flags, VIRTQ_DESC_F_NEXT);
    EXPECT_EQ(chain.parts[1].flags, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE);
    EXPECT_EQ(chain.parts[2].flags, VIRTQ_DESC_F_WRITE);
    EXPECT_EQ(chain.parts[2].length, 1u);
    *back_end.memory(chain.parts[1].address) = std::byte{0x77};
    writes.seen.clear();
    back_end.finish(0, chain.head, 513);
    const auto used = next_used();
    EXPECT_EQ(used->id, id);
    EXPECT_EQ(used->written, 513u);
    EXPECT_EQ(rings[0]->get<std::uint8_t>(data + 0x4000), 0x77);
    // Those who must know of writes to guest memory do.
    EXPECT_TRUE(writes.has(data + 0x4000, 512));
    EXPECT_TRUE(writes.has(data + 19, 1));
    EXPECT_EQ(counter("requests"), 1u);
}

TEST_F(VhostUserTest, FeaturesAndConfigurationAreOfAllThree)
{
    BlockConfig config{};
    config.capacity = 77;
    config.seg_max = 100000;
    config.num_queues = 9;
    std::memcpy(back_end.config.data(), &config, sizeof config);
    start();
    EXPECT_EQ(driver->in(0x2000, 8), 77u);
    EXPECT_EQ(driver->in(0x2000 + offsetof(BlockConfig, seg_max), 4), 254u);
    EXPECT_EQ(driver->in(0x2000 + offsetof(BlockConfig, num_queues), 2), 2u);
    EXPECT_EQ(driver->offered() & 0xffffff,
              VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_MQ);
    EXPECT_NE(driver->offered() & VIRTIO_F_RING_PACKED, 0u);
    EXPECT_EQ(back_end.accepted.load(),
              VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_MQ | VIRTIO_F_VERSION_1 |
                  wire::VHOST_USER_F_PROTOCOL_FEATURES);
}

TEST_F(VhostUserTest, NothingIsLostOrDoubledWhenItDies)
{
    start();
    std::map<std::uint16_t, unsigned> ids;
    for (unsigned i = 0; i < 3; ++i) ids[request(i)] = i;
    const auto first = taken(3);
    // One is finished, and the front end has not heard of it yet.
    back_end.use(0, first[1].second, 513);
    back_end.up = false;
    back_end.die();
    driver->pump();
    EXPECT_EQ(ids.at(next_used()->id), 1u);
    for (unsigned i = 3; i < 5; ++i) ids[request(i)] = i;
    EXPECT_FALSE(rings[0]->take().has_value());

    back_end.up = true;
    until([&] { return counter("reconnects") == 1; });
    std::vector<unsigned> order;
    for (const auto& [number, head] : taken(4)) {
        order.push_back(number);
        back_end.finish(0, head, 513);
    }
    EXPECT_EQ(order, (std::vector<unsigned>{0, 2, 3, 4}));
    for (const unsigned number : order) EXPECT_EQ(ids.at(next_used()->id), number);
    driver->pump();
    EXPECT_FALSE(rings[0]->take().has_value());
    EXPECT_EQ(counter("resubmitted"), 2u);
    EXPECT_EQ(counter("broken"), 0u);
}

TEST_F(VhostUserTest, WhatADeadBackEndStillWritesHasNoEffect)
{
    start();
    request(0);
    const auto old_requests = taken(1);
    std::byte* old = back_end.used_area(0);
    back_end.die();
    until([&] { return counter("reconnects") == 1; });
    EXPECT_NE(back_end.used_area(0), old);
    const std::uint32_t id = old_requests[0].second, length = 0;
    std::memcpy(old + 4, &id, 4);
    std::memcpy(old + 8, &length, 4);
    const std::uint16_t index = 1;
    std::memcpy(old + 2, &index, 2);
    back_end.call(0);
    driver->pump();
    EXPECT_FALSE(rings[0]->take().has_value());
    taken(1);
}

TEST_F(VhostUserTest, OneThatBreaksTheRingIsCutOffAndTheGuestKnowsNothing)
{
    start();
    const std::vector<std::function<void(std::uint16_t)>> lies{
        [&](std::uint16_t head) { back_end.use(0, head, 513, 2); },
        [&](std::uint16_t head) { back_end.use(0, head, 513, 0x7fff); },
        [&](std::uint16_t) { back_end.use(0, 500, 513); },
        [&](std::uint16_t) { back_end.use(0, 1024, 513); },
        [&](std::uint16_t) { back_end.use(0, 0xffffffff, 513); },
        [&](std::uint16_t head) { back_end.use(0, head, 514); },
        [&](std::uint16_t head) { back_end.use(0, (head + 1u) % 1024, 1); },
    };
    request(0);
    for (unsigned i = 0; i < lies.size(); ++i) {
        lies[i](taken(1).at(0).second);
        back_end.call(0);
        until([&] { return counter("backend_misbehaved") == i + 1; });
        until([&] { return counter("reconnects") == i + 1; });
        EXPECT_FALSE(rings[0]->take().has_value());
    }
    back_end.finish(0, taken(1).at(0).second, 513);
    EXPECT_TRUE(next_used().has_value());
    EXPECT_EQ(counter("broken"), 0u);
}

TEST_F(VhostUserTest, OneThatFinishesTwiceIsCutOff)
{
    start();
    request(0);
    request(1);
    const std::uint16_t head = taken(2).at(0).second;
    back_end.use(0, head, 513);
    back_end.finish(0, head, 513);
    until([&] { return counter("backend_misbehaved") == 1; });
    EXPECT_TRUE(next_used().has_value());
    until([&] { return counter("reconnects") == 1; });
    EXPECT_EQ(taken(1).at(0).first, 1u);
}

TEST_F(VhostUserTest, OneThatCannotBeUsedIsAnError)
{
    const auto fails = [&](const std::string& wanted) {
        const auto made = frontend();
        back_end.die();  // it is about to be changed
        ASSERT_FALSE(made.has_value()) << wanted;
        EXPECT_NE(made.error().text().find(wanted), std::string::npos) << made.error().text();
        EXPECT_EQ(made.error().text().find("vhost-user:test"), 0u);
    };
    const auto bytes = [](std::initializer_list<std::uint8_t> list) {
        std::vector<std::byte> all;
        for (const std::uint8_t byte : list) all.push_back(std::byte{byte});
        return all;
    };
    back_end.features &= ~VIRTIO_F_VERSION_1;
    fails("Virtio 1.0");
    back_end.features |= VIRTIO_F_VERSION_1;
    back_end.queues = 1;
    fails("1 queues, and 2");
    back_end.queues = 2;
    back_end.protocol &= ~wire::VHOST_USER_PROTOCOL_F_CONFIG;
    fails("configuration space");
    back_end.protocol |= wire::VHOST_USER_PROTOCOL_F_CONFIG;
    back_end.odd_request = wire::Request::GET_FEATURES;
    back_end.odd_answer = bytes({1, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4});
    fails("wrong size");
    back_end.odd_answer = bytes({2, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8});
    fails("nobody asked for");
    back_end.odd_answer = bytes({1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8});
    fails("nobody asked for");
    back_end.odd_answer = bytes({1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8});
    fails("no message");
    back_end.odd_answer = bytes({1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1});
    fails("no message");
    back_end.odd_request = wire::Request::GET_CONFIG;
    back_end.odd_answer = bytes({24, 0, 0, 0, 5, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    fails("configuration space");
    back_end.up = false;
    const auto made = frontend();
    ASSERT_FALSE(made.has_value());
    EXPECT_NE(made.error().text().find("nobody listens; start the back end first"),
              std::string::npos);
}

TEST_F(VhostUserTest, SilenceIsTheEndOfItsTime)
{
    back_end.odd_request = wire::Request::GET_PROTOCOL_FEATURES;
    const auto begin = std::chrono::steady_clock::now();
    const auto made = frontend();
    ASSERT_FALSE(made.has_value());
    EXPECT_NE(made.error().text().find("does not answer"), std::string::npos);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 3 * wire::Channel::patience);
}

TEST_F(VhostUserTest, OneThatComesBackAsAnotherIsNotUsed)
{
    start();
    request(0);
    back_end.features &= ~VIRTIO_BLK_F_FLUSH;
    back_end.die();
    until([&] { return back_end.connections == 3; });
    EXPECT_FALSE(back_end.running(0));
    EXPECT_EQ(counter("reconnects"), 0u);
    back_end.die();
    back_end.features |= VIRTIO_BLK_F_FLUSH;
    back_end.config[0] = std::byte{0x90};  // larger now, which is possible
    until([&] { return counter("reconnects") == 1; });
    taken(1);
    EXPECT_EQ(driver->in(0x2000, 8), 0x90u);
}

TEST_F(VhostUserTest, ADriversResetWaitsForWhatIsUnderWay)
{
    start();
    request(0);
    const std::uint16_t head = taken(1).at(0).second;
    std::thread slow{[&] {
        ::usleep(100000);
        back_end.finish(0, head, 513);
    }};
    writes.seen.clear();
    driver->out(0x14, 0, 1);
    EXPECT_TRUE(writes.has(data + 0x1000, 512));
    EXPECT_EQ(back_end.stops, 1u);
    slow.join();
    // And everything anew, with the same connection.
    rings.clear();
    ASSERT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1));
    rings.push_back(std::make_unique<TestDriver>(*world.memory, 16, 0));
    driver->set_queue(0, rings[0]->address(), 0);
    driver->ready();
    until([&] { return back_end.running(0); });
    request(1);
    taken(1);
    EXPECT_EQ(back_end.connections, 1u);
}

TEST_F(VhostUserTest, AResetWhileItIsAwayOrStuck)
{
    start();
    request(0);
    back_end.up = false;
    back_end.die();
    driver->pump();
    driver->out(0x14, 0, 1);
    EXPECT_EQ(driver->in(0x14, 1), 0u);
    back_end.up = true;
    until([&] { return counter("reconnects") == 1; });
    EXPECT_TRUE(back_end.take(0).empty());  // the request has gone with the driver
    ASSERT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1));
    rings[0] = std::make_unique<TestDriver>(*world.memory, 16, 0);
    world.memory->clear();
    driver->set_queue(0, rings[0]->address(), 0);
    driver->ready();
    until([&] { return back_end.running(0); });
    request(1);
    taken(1);
    driver->out(0x14, 0, 1);  // it never finishes that one
    EXPECT_EQ(driver->in(0x14, 1), 0u);
    until([&] { return counter("reconnects") == 2; });
}

TEST_F(VhostUserTest, MoreThanTheRingHoldsWaitsItsTurn)
{
    constexpr std::uint16_t size = 256;
    start(1, size, VIRTIO_F_INDIRECT_DESC);
    rings[0] = std::make_unique<TestDriver>(*world.memory, size, VIRTIO_F_INDIRECT_DESC);
    std::vector<Buffer> buffers;
    for (unsigned i = 0; i < 9; ++i) buffers.push_back({data + 16 * i, 16});
    buffers.push_back({data + 0x1000, 1, true});
    for (unsigned i = 0; i < size; ++i) ASSERT_TRUE(rings[0]->add(buffers, true).has_value());
    driver->ring(0);
    unsigned done = 0;
    while (done < size) {
        const auto some = back_end.take(0);
        EXPECT_LE(some.size(), 102u);
        for (const auto& chain : some) {
            ASSERT_EQ(chain.parts.size(), 10u);
            back_end.use(0, chain.head, 1);
        }
        back_end.call(0);
        driver->pump();
        for (; rings[0]->take(); ++done) {}
    }
    EXPECT_EQ(counter("requests"), size);
    EXPECT_EQ(counter("broken"), 0u);
}

TEST_F(VhostUserTest, ASavedStateHasNothingInFlight)
{
    kind = [] {
        return std::make_unique<VhostUserNet>(std::array<std::uint8_t, 6>{2, 0, 0, 0, 0, 1}, 1400);
    };
    start(2);
    EXPECT_EQ(driver->in(0x2000, 1), 2u);
    EXPECT_EQ(driver->in(0x200a, 2), 1400u);
    for (unsigned i = 0; i < 3; ++i) add({{data + 0x1000 * i, 1024, true}});
    auto got = chains(3);
    // The one in the middle is done: those before it cannot be put back into the guest's ring.
    back_end.finish(0, got[1].head, 100);
    driver->pump();
    EXPECT_EQ(next_used()->written, 100u);
    base::StateWriter writer;
    driver->transport.save(writer);
    EXPECT_EQ(next_used()->written, 0u);
    EXPECT_EQ(back_end.stops, 2u);
    // It goes on: one is in the guest's ring still.
    until([&] { return back_end.running(0); });
    EXPECT_EQ(chains(1).at(0).parts[0].address, data + 0x2000);
    // And so it does elsewhere.
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(reader.has_value());
    ASSERT_TRUE(driver->transport.load(*reader).has_value());
    EXPECT_EQ(chains(1).at(0).parts[0].address, data + 0x2000);
}

TEST_F(VhostUserTest, RequestsThatAreNoneAreAnsweredHere)
{
    start();
    add({{data, 15}, {data + 0x1000, 513, true}});
    EXPECT_EQ(next_used()->written, 1u);
    EXPECT_EQ(rings[0]->get<std::uint8_t>(data + 0x1200), 1);
    add({{data, 16}});
    EXPECT_EQ(next_used()->written, 0u);
    EXPECT_TRUE(back_end.take(0).empty());
    EXPECT_EQ(counter("broken"), 0u);
    add({{data, 0}});  // nothing at all is not even that
    EXPECT_EQ(next_used()->written, 0u);
    EXPECT_EQ(counter("broken"), 1u);
    EXPECT_EQ(counter("answered_here"), 2u);
}

struct FuseRequest {
    std::uint32_t size, opcode;
    std::uint64_t unique, node;
    std::uint32_t rest[4];
};
struct FuseReply {
    std::uint32_t size;
    std::int32_t error;
    std::uint64_t unique;
};

struct VhostUserFsTest : VhostUserTest {
    VhostUserFsTest()
    {
        kind = [] { return std::make_unique<VhostUserFs>("name"); };
        back_end.protocol = wire::VHOST_USER_PROTOCOL_F_MQ;
        back_end.config.clear();
    }
    std::uint16_t fuse(std::uint32_t opcode, std::uint64_t unique, bool has_reply = true)
    {
        const std::uint64_t at = data + 0x1000 * unique;
        rings[1]->put(at, FuseRequest{40, opcode, unique, 1, {}});
        std::vector<Buffer> buffers{{at, 40}};
        if (has_reply) buffers.push_back({at + 0x100, 128, true});
        return add(buffers, 1);
    }
    FuseReply reply(std::uint64_t unique)
    {
        return rings[1]->get<FuseReply>(data + 0x1000 * unique + 0x100);
    }
};

TEST_F(VhostUserFsTest, ASessionEndsWithItsServer)
{
    constexpr std::uint32_t lookup = 1, forget = 2, getattr = 3, init = 26, destroy = 38;
    start(2);
    EXPECT_EQ(driver->in(0x2000, 4), 0x656d616eu);
    EXPECT_EQ(driver->in(0x2024, 4), 1u);
    fuse(getattr, 1);  // before there is a session
    EXPECT_EQ(next_used(1)->written, 16u);
    EXPECT_EQ(reply(1).error, -ENOTCONN);
    fuse(init, 2);
    back_end.finish(1, chains(1, 1).at(0).head, 80);
    EXPECT_EQ(next_used(1)->written, 80u);

    fuse(lookup, 3);
    fuse(forget, 4, false);
    chains(2, 1);
    back_end.up = false;
    back_end.die();
    EXPECT_EQ(next_used(1)->written, 16u);  // ends, with an error
    EXPECT_EQ(reply(3).error, -ENOTCONN);
    EXPECT_EQ(reply(3).unique, 3u);
    EXPECT_EQ(next_used(1)->written, 0u);
    fuse(getattr, 5);  // as does what comes while it is away
    EXPECT_EQ(next_used(1)->written, 16u);
    EXPECT_EQ(reply(5).error, -ENOTCONN);
    fuse(init, 6);  // but a mount waits
    fuse(lookup, 7);
    back_end.up = true;
    until([&] { return counter("reconnects") == 1; });
    EXPECT_EQ(chains(2, 1).at(0).parts[0].address, data + 0x6000);
    EXPECT_FALSE(rings[1]->take().has_value());

    back_end.die();
    until([&] { return counter("reconnects") == 2; });
    chains(2, 1);  // nobody saw the first one's answer
    back_end.die();
    fuse(destroy, 8);
    EXPECT_EQ(counter("broken"), 0u);
}

}  // namespace
}  // namespace doppel::devices::virtio
