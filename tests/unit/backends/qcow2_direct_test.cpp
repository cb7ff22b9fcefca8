// Which requests of a qcow2 image are no more than the same of its file, and for how long.
#include <gtest/gtest.h>

#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "block_fixture.h"
#include "memory_file.h"

namespace doppel::backends {
namespace {

using qcow2::Qcow2Image;
using Access = Image::Access;

constexpr std::uint64_t cluster = 65536;

class Qcow2Direct : public testing::Test {
protected:
    void SetUp() override
    {
        qcow2::CreateOptions options;
        options.size = 64 * cluster;
        auto made = std::make_unique<MemoryFile>();
        ASSERT_TRUE(qcow2::create_image(*made, options));
        file_ = made.get();
        image_ = std::move(Qcow2Image::open(std::move(made), {})).value();
    }
    void write(std::uint64_t offset, std::uint64_t length, std::uint64_t seed)
    {
        ASSERT_EQ(image_->write_at(offset, pattern(length, seed)), 0);
    }
    std::vector<std::byte> file_at(const Image::Direct& place, std::size_t length)
    {
        std::vector<std::byte> bytes(length);
        EXPECT_EQ(file_->read_at(place.offset, bytes), 0);
        return bytes;
    }

    MemoryFile* file_ = nullptr;
    std::unique_ptr<Qcow2Image> image_;
};

TEST_F(Qcow2Direct, DataInItsOwnPlaceIs)
{
    write(0, 4 * cluster, 1);
    const auto all = pattern(4 * cluster, 1);
    for (const Access access : {Access::read, Access::write}) {
        const auto place = image_->begin_direct(access, cluster + 512, 2 * cluster);
        ASSERT_TRUE(place);
        const auto found = file_at(*place, 2 * cluster);
        EXPECT_TRUE(std::equal(found.begin(), found.end(), all.begin() + cluster + 512));
        image_->end_direct(*place);
    }
}

TEST_F(Qcow2Direct, WhatNeedsTablesIsNot)
{
    write(0, cluster, 1);
    write(3 * cluster, cluster, 2);
    for (const Access access : {Access::read, Access::write}) {
        EXPECT_FALSE(image_->begin_direct(access, cluster, 512)) << "never written";
        EXPECT_FALSE(image_->begin_direct(access, 0, 2 * cluster)) << "in part";
        EXPECT_FALSE(image_->begin_direct(access, 64 * cluster, 512)) << "behind the end";
    }
    ASSERT_EQ(image_->write_zeroes(0, cluster, true), 0);
    EXPECT_FALSE(image_->begin_direct(Access::read, 0, 512)) << "zero";
    EXPECT_FALSE(image_->begin_direct(Access::write, 0, 512)) << "zero";
    ASSERT_EQ(image_->write_compressed(5 * cluster, std::vector<std::byte>(cluster)), 0);
    EXPECT_FALSE(image_->begin_direct(Access::read, 5 * cluster, 512)) << "compressed";
}

TEST_F(Qcow2Direct, PiecesInSeveralPlacesAreNot)
{
    // The second cluster of the disk comes first in the file.
    write(cluster, cluster, 1);
    write(0, cluster, 2);
    const auto first = image_->begin_direct(Access::read, 0, cluster);
    const auto second = image_->begin_direct(Access::read, cluster, cluster);
    ASSERT_TRUE(first);
    ASSERT_TRUE(second);
    EXPECT_NE(first->offset + cluster, second->offset);
    EXPECT_FALSE(image_->begin_direct(Access::read, 0, 2 * cluster));
    image_->end_direct(*first);
    image_->end_direct(*second);
}

// While somebody moves data, its place is nobody else's, whatever happens to the cluster.
TEST_F(Qcow2Direct, APlaceIsNotReusedBeforeItsEnd)
{
    write(0, cluster, 1);
    ASSERT_EQ(image_->flush(), 0);
    const auto place = image_->begin_direct(Access::write, 0, cluster);
    ASSERT_TRUE(place);
    ASSERT_EQ(image_->discard(0, cluster), 0);
    const auto uses_place = [&](std::uint64_t from) {
        bool used = false;
        for (std::uint64_t at = from; at < from + 8 * cluster; at += cluster) {
            write(at, cluster, 2);
            EXPECT_EQ(image_->flush(), 0);
            const auto other = image_->begin_direct(Access::read, at, cluster);
            EXPECT_TRUE(other);
            if (!other) continue;
            used = used || other->offset == place->offset;
            image_->end_direct(*other);
        }
        return used;
    };
    EXPECT_FALSE(uses_place(8 * cluster));
    image_->end_direct(*place);
    ASSERT_EQ(image_->flush(), 0);
    EXPECT_TRUE(uses_place(24 * cluster)) << "given back after all";
    const auto report = qcow2::check_image(*file_, image_->header());
    ASSERT_TRUE(report);
    EXPECT_EQ(report->corruptions, 0u);
}

TEST_F(Qcow2Direct, ATableThatIsNotInMemoryIsReadByOthers)
{
    write(0, cluster, 1);
    ASSERT_EQ(image_->flush(), 0);
    auto again = Qcow2Image::open(std::make_unique<MemoryFile>(file_->content()), {.backing = {}});
    ASSERT_TRUE(again);
    EXPECT_FALSE((*again)->begin_direct(Access::read, 0, 512));
    std::vector<std::byte> bytes(512);
    ASSERT_EQ((*again)->read_at(0, bytes), 0);
    const auto place = (*again)->begin_direct(Access::read, 0, 512);
    ASSERT_TRUE(place);
    (*again)->end_direct(*place);
}

}  // namespace
}  // namespace doppel::backends
