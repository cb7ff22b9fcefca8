#include <gtest/gtest.h>

#include <sys/epoll.h>

#include <thread>

#include "base/address.h"
#include "base/bytes.h"
#include "base/event_loop.h"
#include "base/result.h"

namespace doppel::base {
namespace {

Result<int> half(int value)
{
    if (value % 2 != 0) return usage_error("Odd");
    return value / 2;
}

Result<int> quarter(int value)
{
    const int first = TRY(half(value));
    return TRY(half(first));
}

TEST(Result, TryReturnsTheFirstError)
{
    EXPECT_EQ(*quarter(12), 3);
    EXPECT_EQ(quarter(6).error().text(), "Odd");
    EXPECT_EQ(quarter(6).error().with_context("--memory").text(), "--memory: Odd");
    EXPECT_EQ(quarter(6).error().kind(), ErrorKind::usage);
}

TEST(ByteReader, NeverReadsPastTheEnd)
{
    const std::array<std::byte, 5> data{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}, std::byte{5}};
    ByteReader reader{data};
    EXPECT_EQ(reader.read<std::uint32_t>(), 0x04030201u);
    EXPECT_EQ(reader.read<std::uint16_t>(), std::nullopt);
    EXPECT_EQ(reader.read<std::uint8_t>(), 5);
    EXPECT_FALSE(reader.read_bytes(1));
    EXPECT_FALSE(reader.seek(6));
    EXPECT_TRUE(reader.seek(5));
}

TEST(Bytes, RegisterValuesOfAnySize)
{
    std::array<std::byte, 8> data{};
    store_bytes(std::span{data}.first(2), 0x12345678);
    EXPECT_EQ(load_bytes(data), 0x5678u);
}

TEST(Address, PageArithmetic)
{
    constexpr Gpa gpa{0x12345};
    EXPECT_EQ(gpa.page(), 0x12u);
    EXPECT_EQ(gpa.page_offset(), 0x345u);
    EXPECT_EQ((gpa + 1) - gpa, 1u);
}

TEST(EventLoop, RunsCallbacksPostsAndStops)
{
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    int seen = 0;
    ASSERT_TRUE((*loop)->add(ends[0], EPOLLIN, [&](std::uint32_t) {
        char c = 0;
        seen += static_cast<int>(::read(ends[0], &c, 1));
        (*loop)->stop();
    }));
    std::thread writer{[&] {
        (*loop)->post([&] { EXPECT_EQ(::write(ends[1], "x", 1), 1); });
    }};
    (*loop)->run();
    writer.join();
    EXPECT_EQ(seen, 1);
    (*loop)->remove(ends[0]);
    ::close(ends[0]);
    ::close(ends[1]);
}

}  // namespace
}  // namespace doppel::base
