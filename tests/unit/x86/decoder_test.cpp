#include "x86/decoder.h"

#include <gtest/gtest.h>

#include <vector>

namespace doppel::x86 {
namespace {

using Bytes = std::vector<std::uint8_t>;

TEST(Decoder, Text)
{
    EXPECT_EQ(disassemble(Bytes{0xf0, 0x48, 0x0f, 0xc7, 0x0f}, CodeWidth::bits64, 0),
              "lock cmpxchg16b [rdi]");
    EXPECT_EQ(disassemble(Bytes{0xeb, 0xfe}, CodeWidth::bits32, 0x1000), "jmp 0x00001000");
    EXPECT_EQ(disassemble(Bytes{0xb8, 0x34, 0x12}, CodeWidth::bits16, 0), "mov ax, 0x1234");
    EXPECT_EQ(disassemble(Bytes{0xb8, 0x34}, CodeWidth::bits16, 0), "(bad) b8 34");
    EXPECT_EQ(disassemble(Bytes{}, CodeWidth::bits64, 0), "(no bytes)");
    EXPECT_EQ(disassemble(Bytes(20, 0x66), CodeWidth::bits64, 0).size(), 5u + 15 * 3);
}

TEST(Decoder, Length)
{
    EXPECT_EQ(instruction_length(Bytes{0x0f, 0x01, 0xcb, 0x90}, CodeWidth::bits64), 3u);
    EXPECT_EQ(instruction_length(Bytes{0x0f}, CodeWidth::bits64), 0u);
    EXPECT_EQ(instruction_length(Bytes{}, CodeWidth::bits64), 0u);
    EXPECT_EQ(instruction_length(Bytes{0x40}, CodeWidth::bits32), 1u) << "INC EAX";
}

TEST(Decoder, WidthOfCode)
{
    CpuState state = reset_state(true);
    EXPECT_EQ(code_width(state), CodeWidth::bits16);
    state.cr0 |= cr0::PE;
    state.segments[CS].attributes |= segment_attributes::DB;
    EXPECT_EQ(code_width(state), CodeWidth::bits32);
    state.rflags |= rflags::VM;
    EXPECT_EQ(code_width(state), CodeWidth::bits16);
    state.rflags &= ~rflags::VM;
    state.efer |= efer::LMA;
    state.segments[CS].attributes ^= segment_attributes::DB | segment_attributes::L;
    EXPECT_EQ(code_width(state), CodeWidth::bits64);
}

}  // namespace
}  // namespace doppel::x86
