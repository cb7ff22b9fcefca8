#include "backends/net/frame.h"

#include "backends/net/token_bucket.h"
#include "net_fixture.h"

namespace doppel::backends {
namespace {

constexpr Offloads all{true, true, true, true};

Frame frame_with(Bytes& bytes, OffloadHeader header) { return {header, bytes}; }

TEST(NetFrame, SizesOfEthernet)
{
    for (const auto& [size, good] : {std::pair{0u, false}, {13u, false}, {14u, true},
                                     {65553u, true}, {65554u, false}}) {
        Bytes bytes(size);
        Frame frame{{}, bytes};
        EXPECT_EQ(settle(frame, {}), good) << size;
    }
}

TEST(NetFrame, ChecksumsThatFit)
{
    Bytes bytes(60);
    const auto good = [&](std::uint16_t start, std::uint16_t offset, const Offloads& allowed) {
        Frame frame = frame_with(bytes, {VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, start, offset});
        return settle(frame, allowed);
    };
    EXPECT_TRUE(good(34, 16, all));
    EXPECT_TRUE(good(34, 24, all));
    EXPECT_FALSE(good(34, 25, all));
    EXPECT_FALSE(good(60, 0, all));
    EXPECT_FALSE(good(0xffff, 0xffff, all));
    EXPECT_FALSE(good(34, 16, {}));
}

TEST(NetFrame, SegmentsThatMakeSense)
{
    Bytes bytes(4000);
    const OffloadHeader tcp4{VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 1448, 34,
                             16};
    const auto good = [&](OffloadHeader header, const Offloads& allowed) {
        Frame frame = frame_with(bytes, header);
        return settle(frame, allowed);
    };
    const auto with = [&](auto change) {
        OffloadHeader header = tcp4;
        change(header);
        return header;
    };
    EXPECT_TRUE(good(tcp4, all));
    EXPECT_FALSE(good(tcp4, {true, false, true, true}));
    EXPECT_FALSE(good(with([](auto& h) { h.gso_size = 0; }), all));
    EXPECT_FALSE(good(with([](auto& h) { h.flags = 0; }), all));
    EXPECT_FALSE(good(with([](auto& h) { h.hdr_len = 4001; }), all));
    EXPECT_FALSE(good(with([](auto& h) { h.gso_type = 2; }), all));
    EXPECT_FALSE(good(with([](auto& h) { h.gso_type = VIRTIO_NET_HDR_GSO_UDP; }), all));
    const auto ecn = with([](auto& h) { h.gso_type |= VIRTIO_NET_HDR_GSO_ECN; });
    EXPECT_TRUE(good(ecn, all));
    EXPECT_FALSE(good(ecn, {true, true, true, false}));
}

TEST(NetFrame, MeaninglessFlagsAreCleared)
{
    Bytes bytes(60);
    Frame frame = frame_with(bytes, {0xfe, 0, 99, 99, 7, 7});
    ASSERT_TRUE(settle(frame, all));
    EXPECT_EQ(frame.header, (OffloadHeader{VIRTIO_NET_HDR_F_DATA_VALID, 0, 0, 0, 0, 0}));
    frame.header.flags = 0xfe;
    ASSERT_TRUE(settle(frame, {}));
    EXPECT_EQ(frame.header.flags, 0);
}

TEST(NetFrame, InternetSumAsRfc1071)
{
    const std::array<unsigned char, 8> text{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    EXPECT_EQ(internet_sum(std::as_bytes(std::span{text})), 0xddf2);
    // Against one word after the other, at all sizes.
    Bytes bytes(101);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 73 + 5);
    for (std::size_t size = 0; size <= bytes.size(); ++size) {
        std::uint32_t sum = 0;
        for (std::size_t i = 0; i < size; ++i) {
            const auto byte = std::to_integer<std::uint32_t>(bytes[i]);
            sum += i % 2 == 0 ? byte << 8 : byte;
            sum = (sum & 0xffff) + (sum >> 16);
        }
        EXPECT_EQ(internet_sum(std::span{bytes}.first(size)), sum) << size;
    }
}

TEST(NetFrame, FinishedChecksumsAddUp)
{
    Bytes bytes = frame_of(61, 0x91);
    Frame frame = frame_with(bytes, {VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 16});
    ASSERT_TRUE(settle(frame, all));
    const auto before = internet_sum(std::span{bytes}.subspan(34));
    bytes[50] = bytes[51] = std::byte{0};
    const auto rest = internet_sum(std::span{bytes}.subspan(34));
    ASSERT_NE(before, rest);
    finish_checksum(frame);
    // The pseudo header's part was zero, so all of it is now "minus zero".
    EXPECT_EQ(internet_sum(std::span{bytes}.subspan(34)), 0xffff);
    EXPECT_EQ(frame.header.flags, VIRTIO_NET_HDR_F_DATA_VALID);
}

TEST(NetTokenBucket, RateBurstAndDebt)
{
    constexpr std::uint64_t second = 1'000'000'000;
    TokenBucket bucket{1000, 100, second};
    EXPECT_LE(bucket.ready_ns(), second);
    bucket.take(100, second);  // the burst
    EXPECT_LE(bucket.ready_ns(), second);
    bucket.take(500, second);  // more than there is: a debt of half a second
    EXPECT_EQ(bucket.ready_ns(), second + second / 2);
    // Idling saves up a burst and no more.
    bucket.take(100, 100 * second);
    EXPECT_LE(bucket.ready_ns(), 100 * second);
    bucket.take(100, 100 * second);
    EXPECT_EQ(bucket.ready_ns(), 100 * second + second / 10);
}

TEST(NetTokenBucket, NoLimitAndExtremes)
{
    TokenBucket free{0, 0, 5};
    free.take(~std::uint64_t{0}, 5);
    EXPECT_EQ(free.ready_ns(), 0u);
    TokenBucket slow{1, 1, 0};
    slow.take(~std::uint64_t{0}, 0);
    EXPECT_GT(slow.ready_ns(), 0u);
}

}  // namespace
}  // namespace doppel::backends
