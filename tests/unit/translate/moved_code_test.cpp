// Translations that are moved to another address are those that would be made there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/address.h"
#include "engine/translate/block/translation.h"
#include "engine/translate/cache/code_cache.h"
#include "engine/translate/emit/code.h"
#include "engine/translate/layout.h"

extern "C" char __executable_start, etext;  // the linker's

namespace doppel::engine::translate {
namespace {

const x86::CpuidPolicy cpuid = x86::CpuidPolicy::create(x86::this_host(), 1, 2'000'000'000);

Mode user_mode(bool gs_free)
{
    Mode mode;
    mode.user = mode.vector = true;
    mode.gs_free = gs_free;
    return mode;
}

struct Made {
    std::vector<std::uint8_t> code = std::vector<std::uint8_t>(96 * 1024);
    Translation translation;
};

Made make(std::span<const std::uint8_t> bytes, std::uint64_t rip, Mode mode, std::uint64_t host,
          std::uint32_t cold, Numbers first)
{
    Made made;
    const Source source{rip, bytes, bytes.size(), mode};
    EXPECT_TRUE(translate(source, cpuid, {made.code.data(), host, 32 * 1024, cold, 32 * 1024}, first,
                          user_common_exit, made.translation));
    return made;
}

// Whether the code could be moved.
bool check(std::span<const std::uint8_t> bytes, std::uint64_t offset, Mode mode)
{
    constexpr std::uint64_t host = user_code + 0x1000, other_host = user_code + 0x345640;
    constexpr Numbers first{100, 1000}, other_first{0x03000123, 77};
    constexpr std::uint32_t cold = 32 * 1024, other_cold = 36 * 1024;
    const std::uint64_t rip = (mode.code32 ? 0x56555000 : 0x7f1234567000) + offset;
    const std::uint64_t other_rip = (mode.code32 ? 0xf7d12000 : 0x5586abcde000) + offset;
    Made made = make(bytes, rip, mode, host, cold, first);
    const Made expected = make(bytes, other_rip, mode, other_host, other_cold, other_first);
    EXPECT_EQ(made.translation.movable, expected.translation.movable);
    if (!made.translation.movable) return false;
    std::memmove(made.code.data() + other_cold, made.code.data() + cold, 32 * 1024);
    std::memset(made.code.data() + cold, 0, other_cold - cold);
    move(made.translation.relocations,
         {rip, other_rip, host, other_host, cold, other_cold, first, other_first}, made.code.data());
    const auto part = [&](const Made& of, std::uint32_t from, std::uint32_t size) {
        return std::vector<std::uint8_t>(of.code.begin() + from, of.code.begin() + from + size);
    };
    const std::uint32_t hot_size = expected.translation.hot_size;
    const std::uint32_t cold_size = expected.translation.size - hot_size;
    EXPECT_EQ(part(made, 0, hot_size), part(expected, 0, hot_size)) << "at offset " << offset;
    EXPECT_EQ(part(made, other_cold, cold_size), part(expected, other_cold, cold_size)) << "at offset " << offset;
    const auto& exits = made.translation.exits;
    EXPECT_EQ(exits.size(), expected.translation.exits.size());
    for (std::size_t i = 0; i < exits.size(); ++i) {
        const std::uint32_t apart = exits[i].stub >= cold ? other_cold - cold : 0;
        EXPECT_EQ(exits[i].stub + apart, expected.translation.exits[i].stub);
        EXPECT_EQ(exits[i].cell, expected.translation.exits[i].cell);
        EXPECT_EQ(exits[i].patch, expected.translation.exits[i].patch);
        EXPECT_EQ(exits[i].compare, expected.translation.exits[i].compare);
    }
    return true;
}

// This program's own code, instructions or what looks like some.
TEST(MovedCode, IsWhatWouldBeMadeThere)
{
    const auto* begin = reinterpret_cast<const std::uint8_t*>(&__executable_start);
    const auto* end = reinterpret_cast<const std::uint8_t*>(&etext);
    constexpr std::size_t step = 199, length = 256;
    unsigned moved = 0, all = 0;
    for (const std::uint8_t* at = begin + 0x8000; at + 4096 < end && all < 20'000; at += step) {
        const std::uint64_t offset = reinterpret_cast<std::uint64_t>(at) & base::page_mask;
        const std::size_t own = std::min<std::size_t>(length, base::page_size - offset);
        constexpr Mode code32{
            .user = true, .vector = true, .gs_free = true, .code32 = true, .gs = Reach::whole};
        moved += check({at, own}, offset, user_mode(all % 2 == 0)) ? 1 : 0;
        EXPECT_TRUE(check({at, own}, offset, code32));
        ++all;
        if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GT(moved, all / 2);
}

TEST(MovedCode, ShortConstantsStay)
{
    // lea eax, [rip + 0x10]: 32 bits of an address.
    constexpr std::uint8_t narrow[] = {0x8d, 0x05, 0x10, 0, 0, 0, 0xc3};
    EXPECT_FALSE(check(narrow, 0x10, user_mode(true)));
    EXPECT_FALSE(place_for_move(0x401000, user_mode(true)));         // addresses fit in 32 bits
    EXPECT_FALSE(place_for_move(0x7f0000000000, user_mode(true)));   // a constant of zero has a form of its own
    EXPECT_FALSE(place_for_move(0x7fffffffe000, user_mode(true)));   // a jump from here may leave the lower half
    EXPECT_TRUE(place_for_move(0x7f1234567000, user_mode(true)));
}

class MovedBlocks : public ::testing::Test {
protected:
    static constexpr std::uint64_t cache_size = 4 << 20;
    static constexpr std::uint64_t here = 0x7f1234567000, there = 0x5586abcde000, ram = 0x5000;

    Block& add(std::uint64_t offset, bool target)
    {
        return cache_.add({here + offset, calling, sizeof calling, mode_}, ram + offset,
                          Block::no_page, target);
    }

    // call +0x20; it is in the same page.
    static constexpr std::uint8_t calling[] = {0xe8, 0x20, 0, 0, 0};
    const Mode mode_ = user_mode(true);
    std::vector<std::uint8_t> memory_ = std::vector<std::uint8_t>(cache_size);
    std::vector<std::uint64_t> targets_ = std::vector<std::uint64_t>(target_table_size / 8);
    std::vector<std::uint64_t> links_ = std::vector<std::uint64_t>(link_count);
    CodeCache cache_{{.user = true, .address = user_code, .write = memory_.data(),
                      .size = cache_size, .common_exit = user_common_exit},
                     cpuid};
};

TEST_F(MovedBlocks, AllOfAPageComeAndLeadToWhereTheyAreNow)
{
    add(0x10, false);
    Block& target = add(0x100, true);
    const auto moved = cache_.move_page(ram + 0x10, there, mode_);
    ASSERT_EQ(moved.size(), 2u);
    Block* const block = cache_.find(ram + 0x10, there + 0x10, mode_);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(block->exits.front().target, there + 0x35);
    EXPECT_EQ(cache_.site(block->first.site).block, block);
    EXPECT_EQ(cache_.block_at(block->host), block);

    const auto space = cache_.add_space(targets_.data(), links_.data());
    cache_.show_page(space, there, ram, mode_, [](std::uint64_t page) {
        return page == there ? ram : Block::no_page;
    });
    Block* const other = cache_.find(ram + 0x100, there + 0x100, mode_);
    ASSERT_NE(other, nullptr);
    EXPECT_NE(other->entry, target.entry);
    EXPECT_EQ(targets_[first_index(there + 0x100)], other->entry);

    // Once more there is nothing to do.
    EXPECT_TRUE(cache_.move_page(ram + 0x10, there, mode_).empty());
    cache_.drop_page(ram);
    EXPECT_TRUE(other->dropped);
}

// An instruction that ends in the next page: which page that is only a cell knows.
TEST_F(MovedBlocks, AJumpToThePagesEndAsksACell)
{
    constexpr std::uint8_t jumping[] = {0xeb, 0x00};                // to what is behind
    constexpr std::uint8_t crossing[] = {0xb8, 1, 0, 0, 0, 0xc3};  // mov eax, 1; its end is elsewhere
    constexpr std::uint64_t last = 0xffe, second_page = 0x9000;
    Block& from = cache_.add({here + last - 2, jumping, sizeof jumping, mode_}, ram + last - 2,
                             Block::no_page, false);
    Block& to = cache_.add({here + last, crossing, base::page_size - last, mode_}, ram + last,
                           second_page, false);
    ASSERT_EQ(to.second_page, second_page);
    ASSERT_NE(to.by_cell, 0u);
    ASSERT_EQ(from.exits.front().target, to.rip);
    const Exit& exit = from.exits.front();
    cache_.link({&from, &exit}, to, 0);
    std::int32_t displacement = 0;
    std::memcpy(&displacement, memory_.data() + (from.host - user_code) + exit.patch,
                sizeof displacement);
    EXPECT_EQ(from.host + exit.patch + 4 + static_cast<std::uint64_t>(std::int64_t{displacement}),
              to.host + to.by_cell);
    // Such a block stays where it is when its page is moved.
    EXPECT_EQ(cache_.move_page(ram + last - 2, there, mode_).size(), 1u);
}

TEST_F(MovedBlocks, NotForCodeThatNobodyHas)
{
    add(0x10, false);
    EXPECT_TRUE(cache_.move_page(ram + 0x20, there, mode_).empty());
    EXPECT_TRUE(cache_.move_page(ram + 0x10, 0x401000, mode_).empty());
    EXPECT_TRUE(cache_.move_page(ram + 0x10, there, user_mode(false)).empty());
}

}  // namespace
}  // namespace doppel::engine::translate
