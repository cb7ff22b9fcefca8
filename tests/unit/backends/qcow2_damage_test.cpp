// Damaged images: each is refused, gives an error where it is damaged, or gives the right data.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "block_fixture.h"
#include "memory_file.h"

namespace doppel::backends {
namespace {

using qcow2::Header;
using qcow2::Qcow2Image;

constexpr std::uint64_t cluster = 4096;
constexpr std::uint64_t disk_size = 4 << 20;

struct Whole {
    std::vector<std::byte> file;
    std::vector<std::byte> disk;
    // Where the file's tables are; what else is in it is data, which nothing vouches for.
    std::vector<std::pair<std::uint64_t, std::uint64_t>> tables;
};

const Whole& whole_image()
{
    static const Whole image = [] {
        Whole made;
        qcow2::CreateOptions options;
        options.size = disk_size;
        options.cluster_bits = 12;
        auto file = std::make_unique<MemoryFile>();
        EXPECT_TRUE(qcow2::create_image(*file, options));
        MemoryFile* raw = file.get();
        auto opened = std::move(Qcow2Image::open(std::move(file), {})).value();
        std::mt19937 random{3};
        for (std::uint64_t at = 0; at < disk_size; at += cluster) {
            const auto bytes = pattern(cluster, at);
            if (random() % 3 == 0) EXPECT_EQ(opened->write_at(at, bytes), 0);
        }
        for (std::uint64_t at = 1 << 20; at < 2 << 20; at += 3 * cluster) {
            EXPECT_EQ(opened->write_zeroes(at, cluster, true), 0);
        }
        EXPECT_EQ(opened->flush(), 0);
        std::vector<std::byte> text(cluster);
        for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>(i % 61 + i / 512);
        for (std::uint64_t at = 3 << 20; at < disk_size; at += cluster) {
            EXPECT_EQ(opened->write_compressed(at, text), 0);
        }
        EXPECT_EQ(opened->close(), 0);
        made.disk.resize(disk_size);
        EXPECT_EQ(opened->read_at(0, made.disk), 0);
        made.file = raw->content();
        const Header header = opened->header();
        made.tables.emplace_back(0, 112);
        made.tables.emplace_back(header.l1_offset, header.l1_size * 8);
        made.tables.emplace_back(header.refcount_table_offset, 64);
        const auto entries = [&](std::uint64_t table, std::uint64_t count, std::uint64_t length) {
            for (std::uint64_t i = 0; i < count; ++i) {
                const auto entry = qcow2::load_be<std::uint64_t>(&made.file[table + i * 8]);
                const std::uint64_t host = entry & qcow2::entry_offset;
                if (host != 0) made.tables.emplace_back(host, length);
            }
        };
        entries(header.l1_offset, header.l1_size, cluster);
        entries(header.refcount_table_offset, header.refcount_table_clusters * cluster / 8, cluster);
        return made;
    }();
    return image;
}

// Whether the flipped bit says something else that is just as valid: "this cluster reads as zero",
// which no redundancy covers.
bool undetectable(std::uint64_t byte, unsigned bit, const Whole& image)
{
    const std::uint64_t l1 = qcow2::load_be<std::uint64_t>(&image.file[40]);
    const std::uint64_t count = qcow2::load_be<std::uint32_t>(&image.file[36]);
    for (std::uint64_t i = 0; i < count; ++i) {
        const auto table = qcow2::load_be<std::uint64_t>(&image.file[l1 + i * 8]) & qcow2::entry_offset;
        if (table != 0 && byte >= table && byte < table + cluster && byte % 8 == 7 && bit == 0) return true;
    }
    return false;
}

enum class Outcome { refused, error, right };

Outcome read_all(std::vector<std::byte> bytes, const std::string& what)
{
    Qcow2Image::Options options;
    options.read_only = true;
    const auto opened = Qcow2Image::open(std::make_unique<MemoryFile>(std::move(bytes)),
                                         std::move(options));
    if (!opened) {
        EXPECT_FALSE(opened.error().text().empty());
        return Outcome::refused;
    }
    bool errors = false;
    const auto& disk = whole_image().disk;
    const std::uint64_t end = std::min<std::uint64_t>((*opened)->size(), disk.size());
    std::vector<std::byte> found(cluster);
    for (std::uint64_t at = 0; at + cluster <= end; at += cluster) {
        if ((*opened)->read_at(at, found) != 0) {
            errors = true;
        } else if (!std::equal(found.begin(), found.end(), disk.begin() + static_cast<std::ptrdiff_t>(at))) {
            ADD_FAILURE() << what << " gives wrong data at " << at;
            return Outcome::right;
        }
    }
    return errors ? Outcome::error : Outcome::right;
}

int damages()
{
    const char* text = std::getenv("DOPPEL_DAMAGES");
    return text != nullptr ? std::atoi(text) : 1000;
}

TEST(Qcow2Damage, FlippedBitsAndCutEnds)
{
    const Whole& image = whole_image();
    std::mt19937 random{7};
    int outcomes[3]{};
    for (int i = 0; i < damages() && !testing::Test::HasFailure(); ++i) {
        auto bytes = image.file;
        std::string what;
        if (i % 4 == 0) {
            bytes.resize(random() % bytes.size());
            what = "cut to " + std::to_string(bytes.size());
        } else {
            const auto& [start, length] = image.tables[random() % image.tables.size()];
            const std::uint64_t byte = start + random() % length;
            const unsigned bit = random() % 8;
            if (undetectable(byte, bit, image)) continue;
            bytes[byte] ^= static_cast<std::byte>(1u << bit);
            what = "byte " + std::to_string(byte) + " bit " + std::to_string(bit);
        }
        ++outcomes[static_cast<int>(read_all(std::move(bytes), what))];
    }
    // Leaks, and bits that nobody needs, are all that stays without consequence.
    EXPECT_GT(outcomes[0], outcomes[2] / 4);
    RecordProperty("refused", outcomes[0]);
    RecordProperty("errors", outcomes[1]);
    RecordProperty("right", outcomes[2]);
}

// Nothing is spread: what can be opened for writing keeps its content when it is written to.
TEST(Qcow2Damage, WritingToADamagedImageHarmsNothingElse)
{
    const Whole& image = whole_image();
    std::mt19937 random{8};
    int opened_ones = 0;
    for (int i = 0; i < damages() / 4 && !testing::Test::HasFailure(); ++i) {
        auto bytes = image.file;
        const auto& [start, length] = image.tables[random() % image.tables.size()];
        const std::uint64_t byte = start + random() % length;
        const unsigned bit = random() % 8;
        if (undetectable(byte, bit, image)) continue;
        bytes[byte] ^= static_cast<std::byte>(1u << bit);
        const std::string what = "byte " + std::to_string(byte) + " bit " + std::to_string(bit);
        auto file = std::make_unique<MemoryFile>(std::move(bytes));
        MemoryFile* raw = file.get();
        auto opened = Qcow2Image::open(std::move(file), {});
        if (!opened) continue;
        ++opened_ones;
        // The same content once more, so that the comparison stays simple.
        for (int j = 0; j < 20; ++j) {
            const std::uint64_t at = random() % (disk_size / cluster) * cluster;
            if (at + cluster > (*opened)->size()) continue;
            static_cast<void>((*opened)->write_at(at, std::span{image.disk}.subspan(at, cluster)));
        }
        static_cast<void>((*opened)->close());
        read_all(raw->content(), what);
    }
    EXPECT_GT(opened_ones, 0);
}

TEST(Qcow2Damage, RepairedImagesAreConsistent)
{
    const Whole& image = whole_image();
    std::mt19937 random{9};
    int repaired = 0;
    for (int i = 0; i < damages() / 4; ++i) {
        auto bytes = image.file;
        const auto& [start, length] = image.tables[random() % image.tables.size()];
        bytes[start + random() % length] ^= static_cast<std::byte>(1u << random() % 8);
        MemoryFile file{std::move(bytes)};
        auto header = Qcow2Image::read_header(file);
        if (!header) continue;
        const auto report = qcow2::repair_image(file, *header, qcow2::Repair::all);
        if (!report || report->corruptions != report->fixed_corruptions) continue;
        ++repaired;
        const auto again = qcow2::check_image(file, *header);
        ASSERT_TRUE(again) << again.error().text();
        ASSERT_EQ(again->corruptions, 0u) << again->messages.front();
    }
    EXPECT_GT(repaired, damages() / 40);
}

TEST(Qcow2Damage, RandomBytes)
{
    std::mt19937 random{10};
    for (int i = 0; i < damages(); ++i) {
        auto bytes = pattern(random() % 20000, random());
        const auto& good = whole_image().file;
        std::copy_n(good.begin(), std::min<std::size_t>(random() % 120, bytes.size()), bytes.begin());
        Qcow2Image::Options options;
        options.check = i % 2 == 0;
        auto opened = Qcow2Image::open(std::make_unique<MemoryFile>(std::move(bytes)),
                                       std::move(options));
        if (!opened || (*opened)->size() < cluster) continue;
        std::vector<std::byte> found(cluster);
        static_cast<void>((*opened)->read_at(0, found));
        static_cast<void>((*opened)->write_at(0, found));
        static_cast<void>((*opened)->flush());
    }
}

}  // namespace
}  // namespace doppel::backends
