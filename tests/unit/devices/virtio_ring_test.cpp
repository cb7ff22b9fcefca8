// Rings against the reference driver, and against a hostile one.
#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "virtio_driver.h"

namespace doppel::devices::virtio {
namespace {

constexpr std::uint64_t data = 0x80000;

class Rings : public testing::TestWithParam<Features> {
protected:
    std::unique_ptr<memory::GuestMemory> memory = make_memory();
    Dma dma{*memory};

    std::unique_ptr<Ring> ring(const TestDriver& driver, const RingState& state = {}) const
    {
        return std::move(create_ring(dma, driver.address(), GetParam(), state)).value();
    }
};

TEST_P(Rings, WhatTheDriverGivesComesBack)
{
    TestDriver driver{*memory, 8, GetParam()};
    const auto device = ring(driver);
    Chain chain;
    EXPECT_FALSE(device->pop(chain));
    const auto id = driver.add({{data, 16}, {data + 100, 20}, {data + 4096, 512, true}});
    ASSERT_TRUE(device->pop(chain));
    EXPECT_EQ(chain.readable_size(), 36u);
    EXPECT_EQ(chain.writable_size(), 512u);
    EXPECT_EQ(chain.readable()[1].at.value, data + 100);
    EXPECT_FALSE(device->pop(chain));
    device->push(chain, 7);
    const auto used = driver.take();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, *id);
    EXPECT_EQ(used->written, 7u);
    EXPECT_FALSE(driver.take());
    EXPECT_EQ(device->problem(), nullptr);
}

// Random chains, taken back in random order, with the device replaced by one of its saved state
// now and then; no ring and no interrupt that the other side waits for may be missing.
TEST_P(Rings, RandomTraffic)
{
    const bool indirect = (GetParam() & VIRTIO_F_INDIRECT_DESC) != 0;
    for (const std::uint16_t size : {std::uint16_t{4}, std::uint16_t{16}, std::uint16_t{64}}) {
        std::mt19937 random{size};
        const auto below = [&](unsigned limit) { return static_cast<unsigned>(random() % limit); };
        memory->clear();
        TestDriver driver{*memory, size, GetParam()};
        auto device = ring(driver);
        std::deque<std::pair<std::uint16_t, std::uint32_t>> given;  // id, its readable size
        std::map<std::uint16_t, std::uint32_t> returned;
        std::vector<Chain> held;
        bool rung = true, interrupted = false, waits = false;
        std::size_t done = 0;
        for (unsigned step = 0; step < 60'000; ++step) {
            switch (below(5)) {
            case 0:
            case 1: {
                std::vector<Buffer> buffers;
                std::uint32_t readable = 0;
                for (unsigned i = 0, count = 1 + below(3); i < count; ++i) {
                    buffers.push_back({data + below(0x10000), 1 + below(5000), i + 1 == count});
                    if (i + 1 != count) readable += buffers.back().size;
                }
                if (const auto id = driver.add(buffers, indirect && below(2) == 0)) {
                    given.push_back({*id, readable});
                    rung = driver.must_ring() || rung;
                }
                break;
            }
            case 2: {
                if (!rung) break;
                Chain chain;
                while (device->pop(chain)) {
                    ASSERT_FALSE(given.empty());
                    ASSERT_EQ(chain.id(), given.front().first);
                    ASSERT_EQ(chain.readable_size(), given.front().second);
                    if (below(8) == 0) {
                        device->unpop(chain);
                        continue;
                    }
                    given.pop_front();
                    held.push_back(chain);
                }
                ASSERT_EQ(device->problem(), nullptr);
                rung = false;
                break;
            }
            case 3:
                if (held.empty()) {
                    // Not a byte of a device that is idle is lost in its state.
                    device = ring(driver, device->state());
                    rung = true;
                    break;
                }
                std::swap(held[below(static_cast<unsigned>(held.size()))], held.back());
                returned[held.back().id()] = step;
                device->push(held.back(), step);
                held.pop_back();
                if (below(2) == 0) interrupted = device->wants_interrupt() || interrupted;
                break;
            default: {
                if (waits && !interrupted) {
                    // It waits for an interrupt: what was announced so far is nothing.
                    interrupted = device->wants_interrupt();
                    if (!interrupted) ASSERT_FALSE(driver.take().has_value());
                    break;
                }
                while (const auto used = driver.take()) {
                    ASSERT_EQ(returned.at(used->id), used->written);
                    returned.erase(used->id);
                    ++done;
                }
                // It goes to sleep, unless something came while it said so.
                driver.want(TestDriver::Interrupts::at_next);
                waits = true;
                interrupted = false;
                while (const auto used = driver.take()) {
                    returned.erase(used->id);
                    ++done;
                    waits = false;
                }
            }
            }
            // The device sleeps only when the driver has nothing that it was not told of.
            if (!rung) ASSERT_TRUE(given.empty()) << "size " << size << ", step " << step;
        }
        EXPECT_GT(done, 1000u);
    }
}

TEST_P(Rings, DriverThatWantsNoInterruptsGetsNone)
{
    TestDriver driver{*memory, 8, GetParam()};
    const auto device = ring(driver);
    driver.want(TestDriver::Interrupts::never);
    Chain chain;
    driver.add({{data, 16}});
    ASSERT_TRUE(device->pop(chain));
    device->push(chain, 0);
    EXPECT_FALSE(device->wants_interrupt());
}

TEST_P(Rings, NoRingIsWantedWhileThereIsWork)
{
    TestDriver driver{*memory, 8, GetParam()};
    const auto device = ring(driver);
    Chain chain;
    driver.add({{data, 16}});
    EXPECT_TRUE(driver.must_ring());
    ASSERT_TRUE(device->pop(chain));
    driver.add({{data, 16}});
    EXPECT_FALSE(driver.must_ring());
    ASSERT_TRUE(device->pop(chain));
    EXPECT_FALSE(device->pop(chain));
    driver.add({{data, 16}});
    EXPECT_TRUE(driver.must_ring());
}

TEST_P(Rings, BuffersThatAreNotMemory)
{
    const std::vector<Buffer> bad{{test_ram - 1, 2}, {test_ram, 1}, {~std::uint64_t{0}, 1},
                                  {~std::uint64_t{0} - 10, 100}, {data, 0xffffffff}};
    for (const Buffer& buffer : bad) {
        TestDriver driver{*memory, 8, GetParam()};
        memory->clear();
        const auto device = ring(driver);
        driver.add({buffer});
        Chain chain;
        EXPECT_FALSE(device->pop(chain));
        EXPECT_NE(device->problem(), nullptr);
        EXPECT_FALSE(device->pop(chain));
    }
}

TEST_P(Rings, ReadableBehindWritable)
{
    TestDriver driver{*memory, 8, GetParam()};
    const auto device = ring(driver);
    driver.add({{data, 16, true}, {data, 16, false}});
    Chain chain;
    EXPECT_FALSE(device->pop(chain));
    EXPECT_NE(device->problem(), nullptr);
}

TEST_P(Rings, IndirectTables)
{
    const bool negotiated = (GetParam() & VIRTIO_F_INDIRECT_DESC) != 0;
    const auto broken_with = [&](std::uint64_t table, std::uint32_t size, unsigned flags) {
        memory->clear();
        TestDriver driver{*memory, 8, GetParam()};
        const auto device = ring(driver);
        driver.add({{data, 16}, {data, 16, true}}, true);
        const std::uint64_t at = driver.address().descriptors;
        if (driver.packed()) {
            auto head = driver.get<PackedDescriptor>(at);
            head.address = table, head.length = size;
            head.flags = static_cast<std::uint16_t>(head.flags | flags);
            driver.put(at, head);
        } else {
            auto head = driver.get<SplitDescriptor>(at);
            head.address = table, head.length = size;
            head.flags = static_cast<std::uint16_t>(head.flags | flags);
            driver.put(at, head);
        }
        Chain chain;
        return !device->pop(chain) && device->problem() != nullptr;
    };
    EXPECT_EQ(broken_with(0x40000, 32, 0), !negotiated);
    EXPECT_TRUE(broken_with(0x40000, 0, 0));
    EXPECT_TRUE(broken_with(0x40000, 33, 0));
    EXPECT_TRUE(broken_with(test_ram - 16, 32, 0));
    EXPECT_TRUE(broken_with(0x40000, 0xfffffff0, 0));
    EXPECT_TRUE(broken_with(0x40000, 32, VIRTQ_DESC_F_NEXT));
}

// Whatever is in ring memory: bounded work, and the same ring never gives one chain twice.
TEST_P(Rings, RandomRingMemory)
{
    std::mt19937 random{7};
    for (unsigned round = 0; round < 3000; ++round) {
        TestDriver driver{*memory, 16, GetParam()};
        const auto device = ring(driver);
        for (const std::uint64_t area :
             {driver.address().descriptors, driver.address().driver, std::uint64_t{0x40000}}) {
            for (std::uint64_t at = 0; at < 256; at += 8) {
                std::uint64_t value = random();
                // Half of them nearly right: addresses in memory, short lengths, small indexes.
                if (round % 2 != 0) {
                    value = at % 16 == 0 ? 0x40000 + value % 0x1000
                                         : (value & 0xff) | (value % 16) << 48 | (random() & 0x8087ull) << 32;
                }
                driver.put(area + at, value);
            }
        }
        if (!driver.packed()) driver.put<std::uint16_t>(driver.address().driver + 2, 12);
        std::vector<Chain> chains;
        Chain chain;
        while (chains.size() <= 16 && device->pop(chain)) chains.push_back(chain);
        EXPECT_LE(chains.size(), 16u);
        for (const Chain& held : chains) device->push(held, 1);
        EXPECT_EQ(device->in_flight(), 0u);
    }
}

TEST_P(Rings, PlacesThatCannotBe)
{
    const TestDriver driver{*memory, 8, GetParam()};
    const auto made = [&](auto change) {
        RingAddress address = driver.address();
        change(address);
        return create_ring(dma, address, GetParam()).has_value();
    };
    EXPECT_TRUE(made([](RingAddress&) {}));
    EXPECT_FALSE(made([](RingAddress& a) { a.size = 0; }));
    EXPECT_FALSE(made([](RingAddress& a) { a.descriptors += 8; }));
    EXPECT_FALSE(made([](RingAddress& a) { a.driver += 1; }));
    EXPECT_FALSE(made([](RingAddress& a) { a.device += 2; }));
    EXPECT_FALSE(made([](RingAddress& a) { a.descriptors = test_ram - 16; }));
    EXPECT_FALSE(made([](RingAddress& a) { a.device = ~std::uint64_t{3}; }));
}

INSTANTIATE_TEST_SUITE_P(
    All, Rings,
    testing::Values(0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC,
                    VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED,
                    VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX,
                    VIRTIO_F_RING_PACKED | VIRTIO_F_INDIRECT_DESC,
                    VIRTIO_F_RING_PACKED | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX),
    [](const auto& info) {
        std::string name = (info.param & VIRTIO_F_RING_PACKED) != 0 ? "Packed" : "Split";
        if ((info.param & VIRTIO_F_INDIRECT_DESC) != 0) name += "Indirect";
        if ((info.param & VIRTIO_F_EVENT_IDX) != 0) name += "EventIndex";
        return name;
    });

class SplitRings : public testing::Test {
protected:
    std::unique_ptr<memory::GuestMemory> memory = make_memory();
    Dma dma{*memory};
    TestDriver driver{*memory, 8, 0};
    std::unique_ptr<Ring> device = std::move(create_ring(dma, driver.address(), 0)).value();
    Chain chain;

    void descriptor(unsigned index, const SplitDescriptor& value)
    {
        driver.put(driver.address().descriptors + 16u * index, value);
    }
    void available(std::uint16_t index, std::initializer_list<std::uint16_t> heads)
    {
        std::uint64_t at = driver.address().driver + 4;
        for (const std::uint16_t head : heads) {
            driver.put(at, head);
            at += 2;
        }
        driver.put(driver.address().driver + 2, index);
    }
};

TEST_F(SplitRings, IndexJumps)
{
    available(9, {0});
    EXPECT_FALSE(device->pop(chain));
    EXPECT_STREQ(device->problem(), "the available index jumped");
}

TEST_F(SplitRings, Loop)
{
    descriptor(0, {data, 16, VIRTQ_DESC_F_NEXT, 1});
    descriptor(1, {data, 16, VIRTQ_DESC_F_NEXT, 0});
    available(1, {0});
    EXPECT_FALSE(device->pop(chain));
    EXPECT_STREQ(device->problem(), "a chain is a loop");
}

TEST_F(SplitRings, HeadOutsideOfTheTable)
{
    available(1, {8});
    EXPECT_FALSE(device->pop(chain));
    EXPECT_STREQ(device->problem(), "an available descriptor is not in the table");
}

TEST_F(SplitRings, ChainLeavesTheTable)
{
    descriptor(0, {data, 16, VIRTQ_DESC_F_NEXT, 8});
    available(1, {0});
    EXPECT_FALSE(device->pop(chain));
    EXPECT_STREQ(device->problem(), "a chain leaves the table");
}

TEST_F(SplitRings, OneDescriptorTwice)
{
    descriptor(0, {data, 16, 0, 0});
    available(2, {0, 0});
    ASSERT_TRUE(device->pop(chain));
    Chain second;
    EXPECT_FALSE(device->pop(second));
    EXPECT_STREQ(device->problem(), "a descriptor was made available twice");
    device->push(chain, 0);  // what was taken before can still be given back
    EXPECT_TRUE(driver.get<std::uint16_t>(driver.address().device + 2) == 1);
}

TEST_F(SplitRings, SizeThatIsNoPowerOfTwo)
{
    EXPECT_FALSE(create_ring(dma, {12, 0x10000, 0x18000, 0x1c000}, 0).has_value());
    EXPECT_TRUE(create_ring(dma, {12, 0x10000, 0x18000, 0x1c000}, VIRTIO_F_RING_PACKED).has_value());
}

TEST_F(SplitRings, SavedStateOfAPackedRingIsChecked)
{
    RingState state;
    state.next_used = 8;
    EXPECT_FALSE(create_ring(dma, driver.address(), VIRTIO_F_RING_PACKED, state).has_value());
    state = {};
    state.used_wrap = 2;
    EXPECT_FALSE(create_ring(dma, driver.address(), VIRTIO_F_RING_PACKED, state).has_value());
}

TEST(Chains, ReadersAndWritersStopAtTheEnd)
{
    const auto memory = make_memory();
    const Dma dma{*memory};
    Chain chain;
    chain.begin();
    ASSERT_EQ(chain.add(dma, data, 3, Access::read), nullptr);
    ASSERT_EQ(chain.add(dma, data + 16, 2, Access::read), nullptr);
    ASSERT_EQ(chain.add(dma, data + 32, 0, Access::write), nullptr);
    ASSERT_EQ(chain.add(dma, data + 64, 4, Access::write), nullptr);
    const std::array<std::byte, 8> from{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4},
                                        std::byte{5}};
    ChainWriter writer{dma, chain};
    EXPECT_EQ(writer.write(from), 4u);
    EXPECT_EQ(writer.written(), 4u);
    std::array<std::byte, 8> to{};
    EXPECT_EQ(ChainReader{chain}.read(to), 5u);
    EXPECT_EQ((ChainReader{chain, 4}.read(to)), 1u);
    EXPECT_EQ((ChainReader{chain, 99}.read(to)), 0u);
    std::uint32_t status = 0;
    ASSERT_TRUE(memory->read_value(base::Gpa{data + 64}, status));
    EXPECT_EQ(status, 0x04030201u);
}

TEST(Chains, TooManyBuffers)
{
    const auto memory = make_memory();
    const Dma dma{*memory};
    Chain chain;
    chain.begin();
    for (std::size_t i = 0; i < Chain::most_buffers; ++i) {
        ASSERT_EQ(chain.add(dma, data, 1, Access::read), nullptr);
    }
    EXPECT_NE(chain.add(dma, data, 1, Access::read), nullptr);
}

}  // namespace
}  // namespace doppel::devices::virtio
