#include "engine/interpret/shared_code.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace doppel::engine::interpret {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t page = 0x5000;

class SharedCodeTest : public testing::Test {
protected:
    void SetUp() override
    {
        auto created = SharedCode::create(1 << 20);
        ASSERT_TRUE(created);
        code_ = std::move(*created);
        for (unsigned i = 0; i < 3; ++i) code_->join(i, attention_[i]);
    }
    std::unique_ptr<SharedCode> code_;
    std::array<std::atomic<bool>, 3> attention_{};
};

TEST_F(SharedCodeTest, AWatchedPageIsEverybodys)
{
    EXPECT_FALSE(code_->watched(page));
    code_->watch(1, page + 17);
    EXPECT_TRUE(code_->watched(page));
    EXPECT_TRUE(code_->watched_by_others(0, page));
    EXPECT_FALSE(code_->watched_by_others(1, page));
    EXPECT_FALSE(code_->watched(page + base::page_size));
    code_->unwatch(1, page);
    EXPECT_FALSE(code_->watched(page));
}

TEST_F(SharedCodeTest, IsSettledAtOnceWhereNobodyRuns)
{
    code_->watch(0, page);
    EXPECT_TRUE(code_->settled(0, page));
    // Those who did not run hear of it before they do.
    EXPECT_TRUE(attention_[1]);
    code_->enter(1);
    EXPECT_THAT(code_->take(1).watched, ElementsAre(page >> base::page_shift));
}

TEST_F(SharedCodeTest, WaitsForTheAnswerOfEachThatRuns)
{
    code_->enter(0);
    code_->enter(1);
    code_->enter(2);
    code_->watch(0, page);
    EXPECT_FALSE(code_->settled(0, page));
    EXPECT_TRUE(code_->settled(0, page + base::page_size));
    const SharedCode::Messages first = code_->take(1);
    EXPECT_FALSE(code_->settled(0, page));  // read, but not done
    code_->settle(1, first);
    EXPECT_FALSE(code_->settled(0, page));
    code_->left(2);  // will read it before it runs again
    EXPECT_TRUE(code_->settled(0, page));
    code_->enter(2);
    EXPECT_TRUE(code_->settled(0, page));
}

TEST_F(SharedCodeTest, AnEarlierAnswerIsNotForALaterQuestion)
{
    code_->enter(1);
    code_->watch(0, page);
    const SharedCode::Messages first = code_->take(1);
    code_->watch(0, page + base::page_size);
    code_->settle(1, first);
    EXPECT_TRUE(code_->settled(0, page));
    EXPECT_FALSE(code_->settled(0, page + base::page_size));
}

TEST_F(SharedCodeTest, TellsOfStoresThoseWhoWatch)
{
    code_->watch(1, page);
    code_->watch(2, page + base::page_size);
    for (auto& flag : attention_) flag = false;
    code_->written(0, page + base::page_size - 4, 8);
    EXPECT_TRUE(attention_[1] && attention_[2]);
    EXPECT_FALSE(attention_[0]);
    EXPECT_EQ(code_->take(1).written.size(), 1u);
    EXPECT_EQ(code_->take(2).written.at(0).ram_offset, page + base::page_size - 4);
    EXPECT_THAT(code_->take(2).written, IsEmpty());
    code_->written(1, page, 1);
    EXPECT_THAT(code_->take(1).written, IsEmpty());
}

// However long it halts while others go on.
TEST_F(SharedCodeTest, ListsNoMoreThanItsBoundForOneThatDoesNotRead)
{
    code_->watch(1, page);
    for (std::size_t i = 0; i < 3 * SharedCode::most_listed; ++i) {
        code_->watch(0, page);
        code_->unwatch(0, page);
        code_->written(0, page, 4);
    }
    const SharedCode::Messages messages = code_->take(1);
    EXPECT_TRUE(messages.all_watched);
    EXPECT_LE(messages.watched.size(), SharedCode::most_listed);
    EXPECT_LE(messages.written.size(), SharedCode::most_listed);
    EXPECT_EQ(messages.written.at(0).ram_offset, 0u);
    EXPECT_EQ(messages.written.at(0).size, 1u << 20);
    EXPECT_FALSE(code_->take(1).all_watched);
}

TEST_F(SharedCodeTest, ForgetsWhoLeft)
{
    code_->enter(2);
    code_->leave(2);
    code_->watch(0, page);
    EXPECT_TRUE(code_->settled(0, page));
}

}  // namespace
}  // namespace doppel::engine::interpret
