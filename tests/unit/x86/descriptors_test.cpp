#include "x86/descriptors.h"

#include <gtest/gtest.h>

namespace doppel::x86 {
namespace {

TEST(Descriptors, FlatCode64)
{
    const Segment s = decode_segment(0x10, 0x00af9b000000ffff);
    EXPECT_EQ(s.selector, 0x10u);
    EXPECT_EQ(s.base, 0u);
    EXPECT_EQ(s.limit, 0xffffffffu);
    EXPECT_EQ(s.attributes, 0xa09bu);
    EXPECT_TRUE(is_code(s) && is_readable(s) && !is_writable(s) && !is_conforming(s));
    EXPECT_TRUE(s.l() && !s.db() && s.present());
    EXPECT_EQ(encode_segment(s), 0x00af9b000000ffffu);
}

TEST(Descriptors, BaseAndByteLimit)
{
    const Segment s = decode_segment(0x1b, 0x1245f6345678abcd);
    EXPECT_EQ(s.base, 0x12345678u);
    EXPECT_EQ(s.limit, 0x5abcdu);
    EXPECT_EQ(s.dpl(), 3u);
    EXPECT_TRUE(is_expand_down(s) && is_writable(s) && is_data(s));
    EXPECT_EQ(encode_segment(s), 0x1245f6345678abcdu);
}

TEST(Descriptors, RoundTripOfEveryBit)
{
    for (unsigned bit = 0; bit < 64; ++bit) {
        const std::uint64_t raw = std::uint64_t{1} << bit;
        EXPECT_EQ(encode_segment(decode_segment(0, raw)), raw) << bit;
    }
}

TEST(Descriptors, SixteenBytes)
{
    const Segment s = decode_segment16(0x40, 0x12008b3456780067, 0x00000000ffff8000);
    EXPECT_EQ(s.base, 0xffff800012345678u);
    EXPECT_EQ(s.limit, 0x67u);
    EXPECT_TRUE(is_system(s, SystemType::TSS32_BUSY));
    EXPECT_EQ(encode_segment_high(s), 0xffff8000u);
    EXPECT_TRUE(high_type_valid(0x00000000ffff8000));
    EXPECT_FALSE(high_type_valid(std::uint64_t{1} << 40));
}

TEST(Descriptors, Gates)
{
    const Gate g32 = decode_gate(0x1234ee0000105678);
    EXPECT_TRUE(g32.is(SystemType::INTERRUPT_GATE32));
    EXPECT_EQ(g32.dpl, 3u);
    EXPECT_TRUE(g32.present);
    EXPECT_EQ(g32.selector, 0x10u);
    EXPECT_EQ(g32.offset, 0x12345678u);
    EXPECT_EQ(encode_gate(g32), 0x1234ee0000105678u);

    const Gate g16 = decode_gate(0xdead840300085678);
    EXPECT_TRUE(g16.is(SystemType::CALL_GATE16));
    EXPECT_EQ(g16.offset, 0x5678u) << "the high half is unused in 16-bit gates";
    EXPECT_EQ(g16.parameter_count, 3u);

    const Gate g64 = decode_gate16(0x8123ef0200105678, 0xffffffff);
    EXPECT_TRUE(g64.is(SystemType::TRAP_GATE32));
    EXPECT_EQ(g64.offset, 0xffffffff81235678u);
    EXPECT_EQ(g64.ist, 2u);
    EXPECT_EQ(encode_gate(g64), 0x8123ef0200105678u);
}

TEST(Descriptors, SelectorsAndSpecialSegments)
{
    EXPECT_TRUE(selector_null(3) && !selector_null(4));
    EXPECT_TRUE(selector_in_ldt(0x0f));
    EXPECT_EQ(selector_offset(0x2b), 0x28u);
    EXPECT_EQ(selector_error(0x2b), 0x28u);
    EXPECT_EQ(selector_error(0x2f), 0x2cu);
    const Segment null = null_segment(3, 3);
    EXPECT_TRUE(null.unusable() && !null.present());
    EXPECT_EQ(null.dpl(), 3u);
    const Segment v = vm86_segment(0x1234);
    EXPECT_EQ(v.base, 0x12340u);
    EXPECT_EQ(v.attributes, 0xf3u);
}

TEST(Descriptors, TaskStateOffsets)
{
    EXPECT_EQ(tss32::esp(2), 0x14u);
    EXPECT_EQ(tss32::ss(2), 0x18u);
    EXPECT_EQ(tss16::sp(1), 6u);
    EXPECT_EQ(tss64::rsp(2), 0x14u);
    EXPECT_EQ(tss64::ist(1), 0x24u);
    EXPECT_EQ(tss64::ist(7), 0x54u);
}

}  // namespace
}  // namespace doppel::x86
