#include "memory/guest_memory.h"

#include <gtest/gtest.h>

namespace doppel::memory {
namespace {

struct Listener final : WriteListener {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> writes;
    void on_write(Gpa start, std::uint64_t size) noexcept override
    {
        writes.emplace_back(start.value, size);
    }
};

std::unique_ptr<GuestMemory> two_slots()
{
    auto memory = GuestMemory::create(0x4000);
    EXPECT_TRUE(memory);
    EXPECT_TRUE((*memory)->add_slot(Gpa{0}, 0x2000, 0));
    EXPECT_TRUE((*memory)->add_slot(Gpa{0x2000}, 0x1000, 0x2000, true));
    EXPECT_TRUE((*memory)->add_slot(Gpa{0x100000}, 0x1000, 0x3000));
    return std::move(*memory);
}

TEST(GuestMemory, RefusesImpossibleSizes)
{
    EXPECT_FALSE(GuestMemory::create(0));
    EXPECT_FALSE(GuestMemory::create(4095));
}

TEST(GuestMemory, SpansStayInsideOneSlot)
{
    const auto memory = two_slots();
    EXPECT_EQ(memory->span(Gpa{0x1ff0}, 16).size(), 16u);
    EXPECT_TRUE(memory->span(Gpa{0x1ff0}, 17).empty());
    EXPECT_TRUE(memory->span(Gpa{0x3000}, 1).empty());
    EXPECT_TRUE(memory->span(Gpa{~0ull}, 2).empty());
    EXPECT_TRUE(memory->span(Gpa{0x100000}, ~0ull).empty());
    EXPECT_EQ(memory->host(Gpa{0x100fff}), memory->ram() + 0x3fff);
}

TEST(GuestMemory, AccessesCrossSlotsAndStopAtHoles)
{
    const auto memory = two_slots();
    std::array<std::byte, 32> bytes{};
    bytes.fill(std::byte{0x5a});
    EXPECT_TRUE(memory->load(Gpa{0x1ff0}, bytes));
    std::array<std::byte, 32> back{};
    EXPECT_TRUE(memory->read(Gpa{0x1ff0}, back));
    EXPECT_EQ(back, bytes);
    EXPECT_FALSE(memory->read(Gpa{0x2ff0}, back));
    // Half of it is ROM or nothing: nothing at all may be written.
    bytes.fill(std::byte{0x11});
    EXPECT_FALSE(memory->write(Gpa{0x1ff0}, bytes));
    EXPECT_FALSE(memory->write(Gpa{0x100ff0}, bytes));
    EXPECT_TRUE(memory->read(Gpa{0x1ff0}, back));
    EXPECT_EQ(back[0], std::byte{0x5a});
}

TEST(GuestMemory, TellsListenersOfWrites)
{
    const auto memory = two_slots();
    Listener listener;
    memory->add_listener(listener);
    EXPECT_TRUE(memory->write_value(Gpa{0x10}, std::uint32_t{7}));
    ASSERT_EQ(listener.writes.size(), 1u);
    EXPECT_EQ(listener.writes[0], (std::pair<std::uint64_t, std::uint64_t>{0x10, 4}));
    memory->clear();
    EXPECT_EQ(listener.writes.size(), 4u);
    std::uint32_t value = 1;
    EXPECT_TRUE(memory->read_value(Gpa{0x10}, value));
    EXPECT_EQ(value, 0u);
}

}  // namespace
}  // namespace doppel::memory
