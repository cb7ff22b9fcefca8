// The code cache over ordinary memory: nothing of what it holds is run.
#include "engine/translate/cache/code_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/address.h"
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
    void link(Block& from, Block& to) { cache_.link({&from, &from.exits.front()}, to); }
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
    EXPECT_EQ(cache_.block_at(block.host + block.size - 1), &block);
    EXPECT_EQ(cache_.block_at(supervisor_code - 1), nullptr);
    EXPECT_EQ(cache_.site(block.first_site).block, &block);
    EXPECT_EQ(cache_.site(block.first_site + 1).block, nullptr);
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
    cache_.add_targets(targets_.data());
    Block& block = add(kernel_ + 0x40, 0x1040);
    const std::size_t slot = 0x40;
    const std::uint64_t miss = targets_[slot];
    cache_.enter_target(targets_.data(), block);
    EXPECT_NE(targets_[slot], miss);
    cache_.clear_targets(targets_.data(), kernel_ + 0x1000);
    EXPECT_NE(targets_[slot], miss);
    cache_.clear_targets(targets_.data(), kernel_);
    EXPECT_EQ(targets_[slot], miss);
    cache_.enter_target(targets_.data(), block);
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
    cache_.add_targets(targets_.data());
    Block& oldest = add(kernel_ + 0x40, 0x1040);
    const std::uint64_t miss = targets_[0x50];
    cache_.enter_target(targets_.data(), oldest);
    // One that stays and jumps to it, in the region filled last.
    while (cache_.block_at(supervisor_code + cache_size - cache_size / CodeCache::regions / 2) == nullptr) {
        const std::uint64_t i = cache_.counters().blocks;
        Block& block = add(kernel_ + 0x100000 + 16 * i, 0x200000 + 16 * i);
        if (block.host < supervisor_code + cache_size - cache_size / CodeCache::regions) continue;
        link(block, oldest);
        ASSERT_EQ(destination(block), oldest.host);
    }
    Block* const last = cache_.block_at(supervisor_code + cache_size - cache_size / CodeCache::regions / 2);
    const std::uint64_t stub = last->host + last->exits.front().stub;
    fill_until_emptied(1);
    EXPECT_EQ(cache_.find(0x1040, kernel_ + 0x40, {}), nullptr);
    EXPECT_EQ(targets_[0x40], miss);
    EXPECT_EQ(destination(*last), stub);
    EXPECT_TRUE(oldest.dropped);  // still there for a caller who holds it
}

// Making room for an entry may drop the very block that it is for.
TEST_F(CodeCacheTest, AnEntryForABlockThatItsOwnRoomCosts)
{
    cache_.add_targets(targets_.data());
    const std::uint64_t miss = targets_[0x40];
    Block& oldest = add(kernel_ + 0x40, 0x1040);
    std::vector<Block*> others;
    for (std::uint64_t i = 0; cache_.counters().emptied_regions == 0; ++i) {
        // Entries take what is left of a region when a block no longer fits.
        others.push_back(&add(kernel_ + 0x100000 + 16 * i, 0x200000 + 16 * i));
        if (others.back()->host > supervisor_code + cache_size - 40 * 1024) break;
    }
    for (Block* other : others) {
        if (cache_.counters().emptied_regions != 0) break;
        cache_.enter_target(targets_.data(), *other);
    }
    cache_.enter_target(targets_.data(), oldest);
    EXPECT_EQ(oldest.dropped, targets_[0x40] == miss);
}

}  // namespace
}  // namespace doppel::engine::translate
