#include "base/option_text.h"

#include <gtest/gtest.h>

namespace doppel::base {
namespace {

TEST(OptionText, PartsEndAtSingleCommas)
{
    std::string_view text = "a,,b.img,readonly,serial=x,,y,";
    EXPECT_EQ(take_option_part(text), "a,b.img");
    EXPECT_EQ(take_option_part(text), "readonly");
    EXPECT_EQ(take_option_part(text), "serial=x,y");
    EXPECT_TRUE(text.empty());
    EXPECT_EQ(take_option_part(text), "");
}

TEST(OptionText, KeysAndValues)
{
    EXPECT_EQ(split_key("readonly").key, "readonly");
    EXPECT_EQ(split_key("readonly").value, "");
    EXPECT_EQ(split_key("a=b=c").key, "a");
    EXPECT_EQ(split_key("a=b=c").value, "b=c");
    EXPECT_EQ(split_key("a=").value, "");
}

TEST(OptionText, OnOrOff)
{
    EXPECT_TRUE(*on_or_off("readonly", ""));
    EXPECT_TRUE(*on_or_off("readonly", "on"));
    EXPECT_FALSE(*on_or_off("readonly", "off"));
    const auto wrong = on_or_off("readonly", "yes");
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().text(), "readonly=yes: expected on or off");
}

}  // namespace
}  // namespace doppel::base
