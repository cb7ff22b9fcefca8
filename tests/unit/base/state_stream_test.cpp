#include "base/state/state_stream.h"

#include <gtest/gtest.h>

namespace doppel::base {
namespace {

struct Sample {
    std::uint64_t a;
    std::uint32_t b;
    std::uint32_t c;
};

std::vector<std::byte> sample_stream()
{
    StateWriter writer;
    writer.section("uart", 2, Sample{1, 2, 3});
    writer.section("pit", 1, std::span<const std::byte>{});
    return writer.finish();
}

TEST(StateStream, RoundTrip)
{
    const auto stream = sample_stream();
    const auto reader = StateReader::open(stream);
    ASSERT_TRUE(reader) << reader.error().text();
    const auto sample = reader->section_as<Sample>("uart", 2);
    ASSERT_TRUE(sample);
    EXPECT_EQ(sample->b, 2u);
    EXPECT_TRUE(reader->section("pit", 1));
}

TEST(StateStream, NamesWhatIsMissing)
{
    const auto stream = sample_stream();
    const auto reader = StateReader::open(stream);
    EXPECT_NE(reader->section("rtc", 1).error().text().find("rtc"), std::string::npos);
    EXPECT_FALSE(reader->section("uart", 1));
    EXPECT_FALSE(reader->section_as<std::uint32_t>("uart", 2));
}

// Every truncation and every flipped bit is noticed; none crashes.
TEST(StateStream, RefusesDamage)
{
    const auto stream = sample_stream();
    for (std::size_t size = 0; size < stream.size(); ++size) {
        EXPECT_FALSE(StateReader::open(std::span{stream}.first(size))) << size;
    }
    for (std::size_t bit = 0; bit < stream.size() * 8; ++bit) {
        auto damaged = stream;
        damaged[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
        const auto reader = StateReader::open(damaged);
        if (!reader) continue;
        EXPECT_FALSE(reader->section("uart", 2).has_value() && reader->section("pit", 1).has_value())
            << "bit " << bit;
    }
}

}  // namespace
}  // namespace doppel::base
