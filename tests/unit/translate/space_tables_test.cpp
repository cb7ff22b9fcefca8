// What address spaces have of their own of code that they share.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "base/address.h"
#include "engine/translate/cache/code_cache.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {
namespace {

// Two pages of a program: a jump in the first leads to the second.
class SpaceTables : public ::testing::Test {
protected:
    struct Space {
        std::vector<std::uint64_t> targets = std::vector<std::uint64_t>(target_table_size / 8);
        std::vector<std::uint64_t> links = std::vector<std::uint64_t>(link_count);
        CodeCache::Space number = 0;
        std::map<std::uint64_t, std::uint64_t> pages;  // linear to RAM
    };
    static constexpr std::uint64_t cache_size = 4 << 20;
    static constexpr std::uint64_t here = 0x401000, there = 0x402000;
    static constexpr std::uint64_t ram_here = 0x5000, ram_there = 0x9000, ram_elsewhere = 0xb000;
    // mov eax, 1; jmp to the same place of the next page
    static constexpr std::uint8_t jumping[] = {0xb8, 1, 0, 0, 0, 0xe9, 0xf6, 0x0f, 0, 0};
    static constexpr std::uint8_t returning[] = {0xc3};

    SpaceTables()
    {
        mode_.user = mode_.vector = mode_.gs_free = true;
        for (Space* each : {&a_, &b_}) {
            each->number = cache_.add_space(each->targets.data(), each->links.data());
        }
    }
    Block& add(std::span<const std::uint8_t> code, std::uint64_t rip, std::uint64_t ram)
    {
        return cache_.add({rip, code, code.size(), mode_}, ram, Block::no_page, false);
    }
    Block& add_jump() { return add(jumping, here + 0x10, ram_here + 0x10); }
    Block& add_target(std::uint64_t ram = ram_there) { return add(returning, there + 0x10, ram + 0x10); }
    void show(Space& space, std::uint64_t linear, std::uint64_t ram)
    {
        space.pages[linear] = ram;
        cache_.show_page(space.number, linear, ram, mode_, [&space](std::uint64_t page) {
            const auto at = space.pages.find(page);
            return at == space.pages.end() ? Block::no_page : at->second;
        });
    }
    void hide(Space& space, std::uint64_t linear)
    {
        cache_.hide_page(space.number, linear, space.pages[linear]);
        space.pages.erase(linear);
    }
    static const Exit& jump_of(const Block& from) { return from.exits.front(); }
    static std::uint64_t stub(const Block& from) { return from.host + jump_of(from).stub; }
    // Where the block's jump leads there.
    static std::uint64_t destination(const Space& space, const Block& from)
    {
        return space.links[from.first.cell + jump_of(from).cell];
    }
    void link(Block& from, Block& to, const Space& space)
    {
        cache_.link({&from, &jump_of(from)}, to, space.number);
    }

    Mode mode_;
    const x86::CpuidPolicy cpuid_ = x86::CpuidPolicy::create(x86::this_host(), 1, 2'000'000'000);
    std::vector<std::uint8_t> memory_ = std::vector<std::uint8_t>(cache_size);
    CodeCache cache_{{.user = true, .address = user_code, .write = memory_.data(),
                      .size = cache_size, .common_exit = user_common_exit},
                     cpuid_};
    Space a_, b_;
};

TEST_F(SpaceTables, AJumpToAnotherPageIsLinkedInOneSpace)
{
    Block& from = add_jump();
    ASSERT_TRUE(jump_of(from).by_cell());
    ASSERT_EQ(jump_of(from).target, there + 0x10);
    Block& to = add_target();
    for (Space* each : {&a_, &b_}) {
        show(*each, here, ram_here);
        EXPECT_EQ(destination(*each, from), stub(from));
    }
    show(a_, there, ram_there);
    EXPECT_EQ(destination(a_, from), stub(from));  // nobody has gone there yet
    link(from, to, a_);
    EXPECT_EQ(destination(a_, from), to.host);
    EXPECT_EQ(destination(b_, from), stub(from));
}

TEST_F(SpaceTables, AnotherSpaceThatHasBothPagesFindsItLinked)
{
    Block& from = add_jump();
    Block& to = add_target();
    show(a_, here, ram_here);
    show(a_, there, ram_there);
    link(from, to, a_);
    // The page with the jump first, or the page that it leads to.
    show(b_, here, ram_here);
    EXPECT_EQ(destination(b_, from), stub(from));
    show(b_, there, ram_there);
    EXPECT_EQ(destination(b_, from), to.host);

    cache_.clear_space(b_.number);
    b_.pages.clear();
    show(b_, there, ram_there);
    show(b_, here, ram_here);
    EXPECT_EQ(destination(b_, from), to.host);
}

TEST_F(SpaceTables, OneThatHasSomethingElseThereDoesNot)
{
    Block& from = add_jump();
    Block& to = add_target();
    Block& other = add_target(ram_elsewhere);
    show(a_, here, ram_here);
    show(a_, there, ram_there);
    link(from, to, a_);
    show(b_, there, ram_elsewhere);
    show(b_, here, ram_here);
    EXPECT_EQ(destination(b_, from), stub(from));
    link(from, other, b_);
    EXPECT_EQ(destination(b_, from), other.host);
    EXPECT_EQ(destination(a_, from), to.host);
    // Each goes with its own page, in the space that has it.
    hide(a_, there);
    EXPECT_EQ(destination(a_, from), stub(from));
    EXPECT_EQ(destination(b_, from), other.host);
    link(from, to, a_);
    cache_.drop_page(ram_elsewhere);
    EXPECT_EQ(destination(a_, from), to.host);
    EXPECT_EQ(destination(b_, from), stub(from));
    cache_.drop_page(ram_there);
    EXPECT_EQ(destination(a_, from), stub(from));
}

TEST_F(SpaceTables, ABlockThatComesLaterLeavesWhereverItsPageIsRun)
{
    add(returning, here + 0x100, ram_here + 0x100);
    show(a_, here, ram_here);
    Block& from = add_jump();
    EXPECT_EQ(destination(a_, from), stub(from));
    EXPECT_EQ(destination(b_, from), 0u);  // it does not run it
    show(b_, here, ram_here);
    EXPECT_EQ(destination(b_, from), stub(from));
}

TEST_F(SpaceTables, ADroppedPageIsShownAnew)
{
    add_jump();
    show(a_, here, ram_here);
    EXPECT_TRUE(cache_.shows(a_.number, ram_here));
    EXPECT_FALSE(cache_.shows(b_.number, ram_here));
    cache_.drop_page(ram_here);
    EXPECT_FALSE(cache_.shows(a_.number, ram_here));
    Block& again = add_jump();
    show(a_, here, ram_here);
    EXPECT_EQ(destination(a_, again), stub(again));
}

// It still relies on the page, but does not run what another space had translated from it since.
TEST_F(SpaceTables, OneThatReliesOnADroppedPageIsNotLedThere)
{
    Block& from = add_jump();
    add_target();
    show(b_, there, ram_there);
    cache_.drop_page(ram_there);
    Block& to = add_target();
    show(a_, here, ram_here);
    show(a_, there, ram_there);
    link(from, to, a_);
    show(b_, here, ram_here);
    EXPECT_EQ(destination(b_, from), stub(from));
    show(b_, there, ram_there);
    EXPECT_EQ(destination(b_, from), to.host);
}

TEST_F(SpaceTables, CellsAreUsedAgain)
{
    Block& from = add_jump();
    Block& to = add_target();
    show(a_, here, ram_here);
    show(a_, there, ram_there);
    link(from, to, a_);
    const std::uint32_t cell = from.first.cell;
    for (std::uint64_t i = 0; cache_.counters().emptied_regions < CodeCache::regions; ++i) {
        ASSERT_LT(i, 1'000'000u);
        Block& block = add(jumping, here + 0x100000 + 16 * i, 0x200000 + 16 * i);
        if (block.first.cell != cell) continue;
        // Nobody runs its page yet; who does finds no trace of the block that had the cell before.
        show(a_, (here + 0x100000 + 16 * i) & ~base::page_mask, (0x200000 + 16 * i) & ~base::page_mask);
        EXPECT_EQ(destination(a_, block), stub(block));
        return;
    }
    FAIL() << "its region was not used again";
}

// ret, to another page: two such targets are learned, and jumped to by cells.
TEST_F(SpaceTables, ABranchLearnsTargetsInOtherPages)
{
    Block& from = add(returning, here + 0x20, ram_here + 0x20);
    Block& first = add_target();
    Block& second = add(returning, there + 0x200, ram_there + 0x200);
    Block& third = add(returning, there + 0x300, ram_there + 0x300);
    for (Space* each : {&a_, &b_}) {
        show(*each, here, ram_here);
        show(*each, there, ram_there);
    }
    ASSERT_EQ(from.exits.size(), 1 + learned_targets);
    ASSERT_TRUE(cache_.learn({&from, &from.exits[0]}, first, a_.number));
    ASSERT_TRUE(cache_.learn({&from, &from.exits[0]}, second, a_.number));
    const Block* const learned[] = {&first, &second};
    for (unsigned i = 0; i < learned_targets; ++i) {
        const Exit& exit = from.exits[1 + i];
        EXPECT_TRUE(exit.far);
        EXPECT_EQ(exit.target, learned[i]->rip);
        EXPECT_EQ(a_.links[from.first.cell + exit.cell], learned[i]->host);
        EXPECT_EQ(b_.links[from.first.cell + exit.cell], from.host + exit.stub);
        const std::uint8_t* const jump = memory_.data() + (from.host - user_code) + exit.patch - 1;
        EXPECT_EQ(jump[0], 0xff);  // jmp [rip + displacement]
        EXPECT_EQ(jump[1], 0x25);
        std::int32_t displacement;
        std::memcpy(&displacement, jump + 2, sizeof displacement);
        EXPECT_EQ(from.host + exit.patch - 1 + 6 + static_cast<std::uint64_t>(std::int64_t{displacement}),
                  link_address(from.first.cell + exit.cell));
    }
    EXPECT_FALSE(cache_.learn({&from, &from.exits[0]}, third, a_.number));
    EXPECT_NE(from.table_jump, 0u);
}

}  // namespace
}  // namespace doppel::engine::translate
