#include "x86/interrupt_return.h"

#include <gtest/gtest.h>

namespace doppel::x86 {
namespace {

constexpr std::uint64_t kernel_code = 0x00af9b000000ffff, kernel_data = 0x00cf93000000ffff,
    user_code = 0x00affb000000ffff, user_data = 0x00cff3000000ffff;
constexpr unsigned access_shift = 40;

constexpr std::uint64_t with_access(std::uint64_t raw, std::uint64_t access)
{
    return (raw & ~(std::uint64_t{0xff} << access_shift)) | access << access_shift;
}

TEST(InterruptReturn, FlagsOfTheFrameAreTaken)
{
    using namespace rflags;
    EXPECT_EQ(usual_return_flags(RESERVED1 | CF | ID, RESERVED1 | ZF | IF | DF | RF),
              RESERVED1 | ZF | IF | DF | RF);
    EXPECT_EQ(usual_return_flags(RESERVED1, 0), RESERVED1);
    // Bits that RFLAGS does not have are not taken.
    EXPECT_EQ(usual_return_flags(RESERVED1, ~std::uint64_t{0x1fffff} & ~ID), RESERVED1);
    for (const std::uint64_t bit : {TF, NT, IOPL, VM, AC, VIF, VIP}) {
        EXPECT_FALSE(usual_return_flags(RESERVED1, RESERVED1 | bit)) << bit;
        EXPECT_FALSE(usual_return_flags(RESERVED1 | bit, RESERVED1)) << bit;
    }
}

TEST(InterruptReturn, CodeIsWhatTheDescriptorSays)
{
    EXPECT_EQ(usual_return_code(0x08, kernel_code), decode_segment(0x08, kernel_code));
    EXPECT_EQ(usual_return_code(0x43, user_code), decode_segment(0x43, user_code));
    EXPECT_FALSE(usual_return_code(0x0b, kernel_code));  // RPL
    EXPECT_FALSE(usual_return_code(0x40, user_code));
    EXPECT_FALSE(usual_return_code(0x08, kernel_data));
    EXPECT_FALSE(usual_return_code(0x08, 0));
    EXPECT_FALSE(usual_return_code(0x08, 0x00cf9b000000ffff));  // 32 bits
    EXPECT_FALSE(usual_return_code(0x08, 0x00ef9b000000ffff));  // L and D
    EXPECT_FALSE(usual_return_code(0x08, with_access(kernel_code, 0x9a)));  // not accessed
    EXPECT_FALSE(usual_return_code(0x08, with_access(kernel_code, 0x1b)));  // not present
    EXPECT_FALSE(usual_return_code(0x08, with_access(kernel_code, 0x9f)));  // conforming
    EXPECT_FALSE(usual_return_code(0x08, with_access(kernel_code, 0x8b)));  // a TSS
}

TEST(InterruptReturn, StackIsWritableOrNull)
{
    EXPECT_EQ(usual_return_stack(0x10, kernel_data, 0), decode_segment(0x10, kernel_data));
    EXPECT_EQ(usual_return_stack(0x3b, user_data, 3), decode_segment(0x3b, user_data));
    EXPECT_EQ(usual_return_stack(0, kernel_data, 0), null_segment(0, 0));
    EXPECT_FALSE(usual_return_stack(3, user_data, 3));
    EXPECT_FALSE(usual_return_stack(1, kernel_data, 0));
    EXPECT_FALSE(usual_return_stack(0x10, kernel_data, 3));
    EXPECT_FALSE(usual_return_stack(0x13, kernel_data, 3));
    EXPECT_FALSE(usual_return_stack(0x38, user_data, 0));
    EXPECT_FALSE(usual_return_stack(0x10, kernel_code, 0));
    EXPECT_FALSE(usual_return_stack(0x10, with_access(kernel_data, 0x91), 0));  // read-only
    EXPECT_FALSE(usual_return_stack(0x10, with_access(kernel_data, 0x92), 0));  // not accessed
    EXPECT_FALSE(usual_return_stack(0x10, with_access(kernel_data, 0x13), 0));  // not present
}

}  // namespace
}  // namespace doppel::x86
