// The code cache over ordinary memory: nothing of what it holds is run.
#include "engine/translate/cache/code_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/address.h"
#include "engine/translate/emit/code.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {
namespace {

// mov eax, 1; jmp to the block's end and 0x10 more.
constexpr std::uint8_t jumping[] = {0xb8, 1, 0, 0, 0, 0xeb, 0x10};
constexpr std::uint64_t target_of_jump = 0x17;
constexpr std::uint64_t cache_size = 2 << 20;

class CodeCacheTest : public ::testing::Test {
protected:
    Block& add(std::uint64_t rip, std::uint64_t ram_offset,
               std::uint64_t second_page = Block::no_page, std::size_t own = sizeof jumping,
               bool target = false)
    {
        return cache_.add({rip, jumping, own, {}}, ram_offset, second_page, target);
    }
    // Where the block's jump leads.
    [[nodiscard]] std::uint64_t destination(const Block& block) const
    {
        const Exit& exit = block.exits.front();
        std::int32_t displacement = 0;
        std::memcpy(&displacement, memory_.data() + (block.host - supervisor_code) + exit.patch,
                    sizeof displacement);
        return block.host + exit.patch + 4 + static_cast<std::uint64_t>(std::int64_t{displacement});
    }
    void link(Block& from, Block& to) { cache_.link({&from, &from.exits.front()}, to, 0); }
    void fill_until_emptied(std::uint64_t regions)
    {
        for (std::uint64_t i = 0; cache_.counters().emptied_regions < regions; ++i) {
            ASSERT_LT(i, 1'000'000u);
            add(kernel_ + 0x100000 + 16 * i, 0x200000 + 16 * i);
        }
    }

    static constexpr std::uint64_t kernel_ = 0xffffffff81000000;
    const x86::CpuidPolicy cpuid_ = x86::CpuidPolicy::create(x86::this_host(), 1, 2'000'000'000);
    std::vector<std::uint8_t> memory_ = std::vector<std::uint8_t>(cache_size);
    // Both tables of an address space lie in one piece of memory.
    std::vector<std::uint64_t> targets_ = std::vector<std::uint64_t>(target_table_size / 8);
    CodeCache cache_{{.user = false, .address = supervisor_code, .write = memory_.data(),
                      .size = cache_size, .common_exit = 0x60000000},
                     cpuid_};
};

TEST_F(CodeCacheTest, FindsByPlaceAddressAndMode)
{
    Block& block = add(kernel_, 0x1000);
    EXPECT_EQ(cache_.find(0x1000, kernel_, {}), &block);
    EXPECT_EQ(cache_.find(0x2000, kernel_, {}), nullptr);
    EXPECT_EQ(cache_.find(0x1000, kernel_ + 0x1000, {}), nullptr);
    Mode other;
    other.vector = true;
    EXPECT_EQ(cache_.find(0x1000, kernel_, other), nullptr);
    EXPECT_EQ(cache_.block_at(block.host), &block);
    EXPECT_EQ(cache_.block_at(block.host + block.hot_size - 1), &block);
    EXPECT_EQ(cache_.block_at(block.host + block.hot_size), nullptr);
    EXPECT_EQ(cache_.block_at(block.host + block.exits.front().stub), &block);
    EXPECT_EQ(cache_.block_at(block.host + block.cold + block.cold_size - 1), &block);
    EXPECT_EQ(cache_.block_at(supervisor_code - 1), nullptr);
    EXPECT_EQ(cache_.site(block.first.site).block, &block);
    EXPECT_EQ(cache_.site(block.first.site + 1).block, nullptr);
    EXPECT_EQ(cache_.site(~0u).block, nullptr);
}

TEST_F(CodeCacheTest, AJumpLeadsToItsBlockUntilThatIsDropped)
{
    Block& from = add(kernel_, 0x1000);
    Block& to = add(kernel_ + target_of_jump, 0x3000 + target_of_jump);
    ASSERT_EQ(from.exits.front().target, kernel_ + target_of_jump);
    const std::uint64_t stub = from.host + from.exits.front().stub;
    EXPECT_EQ(destination(from), stub);
    link(from, to);
    EXPECT_EQ(destination(from), to.host);
    cache_.drop_page(0x3000);
    EXPECT_EQ(destination(from), stub);
    EXPECT_EQ(cache_.find(0x3000 + target_of_jump, kernel_ + target_of_jump, {}), nullptr);
    link(from, to);  // dropped: nobody may go there any more
    EXPECT_EQ(destination(from), stub);
}

TEST_F(CodeCacheTest, EntriesLeaveTheTableWithTheirBlocks)
{
    const auto space = cache_.add_space(targets_.data());
    Block& block = add(kernel_ + 0x40, 0x1040);
    const std::size_t slot = first_index(kernel_ + 0x40);
    const std::uint64_t miss = targets_[slot];
    cache_.enter_target(space, block);
    EXPECT_NE(targets_[slot], miss);
    cache_.clear_targets(space, kernel_ + 0x1000);
    EXPECT_NE(targets_[slot], miss);
    cache_.clear_targets(space, kernel_);
    EXPECT_EQ(targets_[slot], miss);
    cache_.enter_target(space, block);
    EXPECT_NE(targets_[slot], miss);
    cache_.drop_page(0x1000);
    EXPECT_EQ(targets_[slot], miss);
}

TEST_F(CodeCacheTest, ABlockInTwoPagesGoesWithEither)
{
    const std::uint64_t rip = kernel_ + base::page_size - 3;
    const std::uint64_t at = 0x1000 + base::page_size - 3;
    add(rip, at, 0x8000, 3);
    ASSERT_NE(cache_.find(at, rip, {}), nullptr);
    EXPECT_TRUE(cache_.has_page(0x1000));
    EXPECT_TRUE(cache_.has_page(0x8000));
    cache_.drop_page_at(0x8000, kernel_);  // that page is not where it has its second part
    EXPECT_NE(cache_.find(at, rip, {}), nullptr);
    cache_.drop_page_at(0x8000, kernel_ + base::page_size);
    EXPECT_EQ(cache_.find(at, rip, {}), nullptr);

    add(rip, at, 0x8000, 3);
    cache_.drop_page(0x8000);
    EXPECT_EQ(cache_.find(at, rip, {}), nullptr);
    // Its other page does not remember a block that is gone when the region is reused.
    fill_until_emptied(CodeCache::regions + 1);
    cache_.drop_page(0x1000);
}

TEST_F(CodeCacheTest, AFullCacheGivesUpItsOldestBlocks)
{
    const auto space = cache_.add_space(targets_.data());
    Block& oldest = add(kernel_ + 0x40, 0x1040);
    const std::uint64_t miss = targets_[first_index(kernel_ + 0x50)];
    cache_.enter_target(space, oldest);
    // One that stays and jumps to it, in the region filled last.
    constexpr std::uint64_t region = cache_size / CodeCache::regions;
    constexpr std::uint64_t late = supervisor_code + cache_size - region * 3 / 4;
    while (cache_.block_at(late) == nullptr) {
        const std::uint64_t i = cache_.counters().blocks;
        Block& block = add(kernel_ + 0x100000 + 16 * i, 0x200000 + 16 * i);
        if (block.host < supervisor_code + cache_size - region) continue;
        link(block, oldest);
        ASSERT_EQ(destination(block), oldest.host);
    }
    Block* const last = cache_.block_at(late);
    const std::uint64_t stub = last->host + last->exits.front().stub;
    fill_until_emptied(1);
    EXPECT_EQ(cache_.find(0x1040, kernel_ + 0x40, {}), nullptr);
    EXPECT_EQ(targets_[first_index(kernel_ + 0x40)], miss);
    EXPECT_EQ(destination(*last), stub);
    EXPECT_TRUE(oldest.dropped);  // still there for a caller who holds it
}

// Making room for an entry may drop the very block that it is for.
TEST_F(CodeCacheTest, AnEntryForABlockThatItsOwnRoomCosts)
{
    const auto space = cache_.add_space(targets_.data());
    const std::uint64_t miss = targets_[first_index(kernel_ + 0x40)];
    Block& oldest = add(kernel_ + 0x40, 0x1040);
    std::vector<Block*> others;
    for (std::uint64_t i = 0; cache_.counters().emptied_regions == 0; ++i) {
        // Entries take what is left of a region when a block no longer fits.
        others.push_back(&add(kernel_ + 0x100000 + 16 * i, 0x200000 + 16 * i));
        if (others.back()->host > supervisor_code + cache_size - 88 * 1024) break;
    }
    for (Block* other : others) {
        if (cache_.counters().emptied_regions != 0) break;
        cache_.enter_target(space, *other);
    }
    cache_.enter_target(space, oldest);
    EXPECT_EQ(oldest.dropped, targets_[first_index(kernel_ + 0x40)] == miss);
}

// An indirect branch of user code, in a cache of its own.
class LearningTest : public ::testing::Test {
protected:
    Block& add(std::uint64_t offset, std::uint64_t ram_page = 0x5000)
    {
        static constexpr std::uint8_t ret[] = {0xc3};
        return cache_.add({page_ + offset, ret, sizeof ret, mode_}, ram_page + (offset & 0xfff),
                          Block::no_page);
    }
    [[nodiscard]] std::uint64_t destination(const Block& block, const Exit& exit) const
    {
        return block.host + exit.patch + 4 +
               static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(word(block, exit.patch))});
    }
    [[nodiscard]] std::uint32_t word(const Block& block, std::uint32_t offset) const
    {
        std::uint32_t value = 0;
        std::memcpy(&value, memory_.data() + (block.host - user_code) + offset, sizeof value);
        return value;
    }
    bool learn(Block& from, Block& to, std::size_t exit = 0)
    {
        return cache_.learn({&from, &from.exits[exit]}, to, space_);
    }

    static constexpr std::uint64_t page_ = 0x401000;
    static constexpr Mode mode_{.user = true, .gs_free = true};
    const x86::CpuidPolicy cpuid_ = x86::CpuidPolicy::create(x86::this_host(), 1, 2'000'000'000);
    std::vector<std::uint8_t> memory_ = std::vector<std::uint8_t>(cache_size);
    CodeCache cache_{{.user = true, .address = user_code, .write = memory_.data(),
                      .size = cache_size, .common_exit = user_common_exit},
                     cpuid_};
    std::vector<std::uint64_t> targets_ = std::vector<std::uint64_t>(target_table_size / 8);
    std::vector<std::uint64_t> links_ = std::vector<std::uint64_t>(link_count);
    const CodeCache::Space space_ = cache_.add_space(targets_.data(), links_.data());
};

TEST_F(LearningTest, TwoTargetsThenTheTable)
{
    Block& from = add(0x100);
    ASSERT_EQ(from.exits.size(), 1 + learned_targets);
    Block& first = add(0x300);
    Block& second = add(0x200);
    EXPECT_TRUE(learn(from, first));
    EXPECT_EQ(destination(from, from.exits[1]), first.host);
    EXPECT_EQ(word(from, from.exits[1].compare), 0u - 0x300);
    EXPECT_TRUE(learn(from, second, 2));  // taken by chance
    EXPECT_EQ(destination(from, from.exits[2]), second.host);
    EXPECT_EQ(word(from, from.exits[2].compare), 0x100u);
    const std::uint32_t before = word(from, from.exits[0].compare);
    EXPECT_FALSE(learn(from, add(0x400)));
    EXPECT_NE(word(from, from.exits[0].compare), before);
    // What was learned is a direct exit and lives as one.
    cache_.drop_page(0x5000);
    EXPECT_TRUE(first.dropped);
}

TEST_F(LearningTest, ADroppedTargetIsLeftByTheStub)
{
    Block& from = add(0x100);
    Block& to = add(0x300);
    ASSERT_TRUE(learn(from, to));
    EXPECT_EQ(from.exits[1].kind, ExitKind::direct);
    EXPECT_EQ(from.exits[1].target, to.rip);
    cache_.drop_page_at(0x5000, page_);
    EXPECT_EQ(destination(from, from.exits[1]), from.host + from.exits[1].stub);
    Block& again = add(0x100);
    EXPECT_FALSE(learn(again, to));  // not a dropped one
    EXPECT_EQ(again.exits[1].kind, ExitKind::indirect);
}

TEST_F(LearningTest, OneInAnotherPageIsTheSpacesOwn)
{
    for (const bool other_address : {true, false}) {
        Block& from = add(other_address ? 0x100 : 0x180);
        Block& to = other_address ? add(0x1300) : add(0x300, 0x9000);
        EXPECT_TRUE(learn(from, to));
        EXPECT_TRUE(from.exits[1].far);
        EXPECT_EQ(links_[from.first.cell + from.exits[1].cell], to.host);
    }
}

TEST_F(LearningTest, NotOneThatIsTooFarAway)
{
    Block& from = add(0x100);
    Block& to = add(0x80001000);
    EXPECT_FALSE(learn(from, to));
    EXPECT_EQ(from.exits[1].kind, ExitKind::indirect);
    EXPECT_TRUE(to.incoming.empty());
}

}  // namespace
}  // namespace doppel::engine::translate
