#include "vm/vm_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vm/vm.h"

namespace doppel::vm {
namespace {

using testing::HasSubstr;

TEST(ParseSize, TakesSuffixes)
{
    EXPECT_EQ(*parse_size("--memory", "4096"), 4096u);
    EXPECT_EQ(*parse_size("--memory", "64k"), 65536u);
    EXPECT_EQ(*parse_size("--memory", "512M"), std::uint64_t{512} << 20);
    EXPECT_EQ(*parse_size("--memory", "2G"), std::uint64_t{2} << 30);
    EXPECT_EQ(*parse_size("--memory", "1T"), std::uint64_t{1} << 40);
    EXPECT_EQ(*parse_size("--memory", "0"), 0u);
}

TEST(ParseSize, RefusesTheRestAndNamesTheOption)
{
    for (const char* text : {"", "M", "-1M", "12X", "1MM", "0x10", "99999999999999999999",
                             "18446744073709551615G", " 1M", "1 M", "1.5G"}) {
        const auto size = parse_size("--memory", text);
        ASSERT_FALSE(size) << text;
        EXPECT_THAT(size.error().text(), HasSubstr("--memory"));
    }
}

TEST(ParseOptions, EnginesConsolesPortsAndStats)
{
    EXPECT_EQ(*parse_engine("auto"), std::nullopt);
    EXPECT_EQ(*parse_engine("kvm"), engine::EngineKind::kvm);
    EXPECT_FALSE(parse_engine("KVM"));
    EXPECT_EQ(parse_console("stdio")->kind, ConsoleKind::stdio);
    EXPECT_EQ(parse_console("file:/a:b")->path, "/a:b");
    EXPECT_FALSE(parse_console("file:"));
    EXPECT_FALSE(parse_console("pty"));
    EXPECT_EQ(*parse_debug_exit("0xf4"), 0xf4);
    EXPECT_EQ(*parse_debug_exit("65535"), 65535);
    EXPECT_FALSE(parse_debug_exit("0x10000"));
    EXPECT_FALSE(parse_debug_exit(""));
    EXPECT_FALSE(parse_debug_exit("0x"));
    EXPECT_EQ(*parse_stats("json"), StatsMode::json);
    EXPECT_FALSE(parse_stats("xml"));
    EXPECT_EQ(*parse_cpus("1"), 1u);
    EXPECT_FALSE(parse_cpus("0"));
    EXPECT_FALSE(parse_cpus("two"));
}

TEST(Validate, ChecksMemoryCpusAndKernel)
{
    VmConfig config;
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("--kernel"));
    config.kernel = "k";
    EXPECT_TRUE(validate(config, 0));
    config.memory_bytes = 0;
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("--memory"));
    config.memory_bytes = (1 << 20) + 1;
    EXPECT_FALSE(validate(config, 0));
    config.memory_bytes = std::uint64_t{1} << 50;
    EXPECT_TRUE(validate(config, 0));
    EXPECT_THAT(validate(config, std::uint64_t{1} << 34).error().text(), HasSubstr("16384M"));
    config.memory_bytes = 16 << 20;
    config.cpus = 2;
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("--cpus"));
}

TEST(VmResult, ExitStatuses)
{
    using Kind = VmResult::Kind;
    const auto status = [](Kind kind, std::uint64_t value = 0) {
        return VmResult{kind, value, {}}.exit_status();
    };
    EXPECT_EQ(status(Kind::powered_off), 0);
    EXPECT_EQ(status(Kind::left_by_user), 0);
    EXPECT_EQ(status(Kind::debug_exit, 0), 1);
    EXPECT_EQ(status(Kind::debug_exit, 0x10), 0x21);
    EXPECT_EQ(status(Kind::debug_exit, 0xffffffff), 0xff);
    EXPECT_EQ(status(Kind::triple_fault), 4);
    EXPECT_EQ(status(Kind::failed), 3);
    EXPECT_EQ(status(Kind::signalled, 15), 143);
}

}  // namespace
}  // namespace doppel::vm
