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

TEST(ParseOptions, SeveralEnginesAndWhenTheyChange)
{
    using enum engine::EngineKind;
    EXPECT_EQ(parse_engines("auto")->first, std::nullopt);
    const auto three = parse_engines("interpret,translate,interpret");
    ASSERT_TRUE(three);
    EXPECT_EQ(three->first, interpret);
    EXPECT_EQ(three->next, (std::vector{translate, interpret}));
    for (const char* text : {"", ",", "interpret,", ",translate", "interpret,auto",
                             "auto,translate", "interpret translate"}) {
        const auto engines = parse_engines(text);
        ASSERT_FALSE(engines) << text;
        EXPECT_THAT(engines.error().text(), HasSubstr("--engine"));
    }
    EXPECT_EQ(*parse_switch_at("5,18446744073709551615"), (std::vector<std::uint64_t>{5, ~0ull}));
    for (const char* text : {"", "0", "1,", "1,,2", "-1", "18446744073709551616"}) {
        ASSERT_FALSE(parse_switch_at(text)) << text;
    }
    EXPECT_EQ(*parse_lock_step("7"), 7u);
    EXPECT_FALSE(parse_lock_step("0"));
    EXPECT_FALSE(parse_lock_step("x"));
}

TEST(Validate, ChangesOfEngine)
{
    using enum engine::EngineKind;
    VmConfig config;
    config.kernel = "k";
    config.engine = interpret;
    config.switch_at = {5};
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("--switch-at"));
    config.next_engines = {translate};
    EXPECT_TRUE(validate(config, 0));
    config.switch_at = {5, 5};  // translate does not count
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("number 2 is for translate"));
    config.switch_at = {};
    config.next_engines = {kvm};
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("kvm"));
    config.next_engines = {};
    config.lock_step = 1;
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("--lock-step"));
    config.engine = translate;
    EXPECT_TRUE(validate(config, 0));
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
    config.cpus = most_cpus;
    EXPECT_TRUE(validate(config, 0));
    config.lock_step = 1;
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("one CPU only"));
    config.lock_step = 0;
    config.cpus = most_cpus + 1;
    EXPECT_THAT(validate(config, 0).error().text(), HasSubstr("--cpus 65: 64 at most"));
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
