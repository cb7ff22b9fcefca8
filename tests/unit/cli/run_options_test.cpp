#include "cli/run_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace doppel::cli {
namespace {

using testing::HasSubstr;

TEST(RunOptions, EverythingGiven)
{
    const auto request = parse_run({"--engine", "interpret", "--memory=1G", "--cpus", "1",
                                    "--kernel", "k", "--initrd=i", "--cmdline", "a=b c",
                                    "--console", "file:log", "--debug-exit", "0xf4",
                                    "--stats=json"});
    ASSERT_TRUE(request) << request.error().text();
    const vm::VmConfig& config = request->config;
    EXPECT_EQ(config.engine, engine::EngineKind::interpret);
    EXPECT_EQ(config.memory_bytes, std::uint64_t{1} << 30);
    EXPECT_EQ(config.kernel, "k");
    EXPECT_EQ(config.initrd, "i");
    EXPECT_EQ(config.cmdline, "a=b c");
    EXPECT_EQ(config.console, (vm::ConsoleSpec{vm::ConsoleKind::file, "log"}));
    EXPECT_EQ(config.debug_exit_port, 0xf4);
    EXPECT_EQ(config.stats, vm::StatsMode::json);
}

TEST(RunOptions, Defaults)
{
    const auto request = parse_run({"--kernel", "k"});
    ASSERT_TRUE(request) << request.error().text();
    EXPECT_FALSE(request->config.engine.has_value());
    EXPECT_EQ(request->config.memory_bytes, std::uint64_t{512} << 20);
    EXPECT_EQ(request->config.console, vm::ConsoleSpec{});
    EXPECT_FALSE(request->config.debug_exit_port.has_value());
    EXPECT_EQ(request->config.stats, vm::StatsMode::off);
}

TEST(RunOptions, EmptyCommandLineIsAValue)
{
    for (const Arguments& arguments :
         {Arguments{"--kernel", "k", "--cmdline", ""}, Arguments{"--cmdline=", "--kernel", "k"}}) {
        const auto request = parse_run(arguments);
        ASSERT_TRUE(request) << request.error().text();
        EXPECT_EQ(request->config.cmdline, "");
        EXPECT_EQ(request->config.kernel, "k");
    }
}

TEST(RunOptions, ValuesThatLookLikeOptions)
{
    const auto joined = parse_run({"--kernel", "k", "--cmdline=--frob -x"});
    ASSERT_TRUE(joined) << joined.error().text();
    EXPECT_EQ(joined->config.cmdline, "--frob -x");
    const auto separate = parse_run({"--kernel", "k", "--cmdline", "-x"});
    ASSERT_TRUE(separate) << separate.error().text();
    EXPECT_EQ(separate->config.cmdline, "-x");
}

TEST(RunOptions, PlainStatsTakesNoValue)
{
    const auto request = parse_run({"--stats", "--kernel", "k"});
    ASSERT_TRUE(request) << request.error().text();
    EXPECT_EQ(request->config.stats, vm::StatsMode::text);
}

TEST(RunOptions, EnginesThatCheckEachOther)
{
    const auto request = parse_run({"--kernel", "k", "--engine", "interpret,translate",
                                    "--switch-at", "1000", "--lock-step"});
    ASSERT_TRUE(request) << request.error().text();
    EXPECT_EQ(request->config.engine, engine::EngineKind::interpret);
    EXPECT_EQ(request->config.next_engines, std::vector{engine::EngineKind::translate});
    EXPECT_EQ(request->config.switch_at, std::vector<std::uint64_t>{1000});
    EXPECT_EQ(request->config.lock_step, 1u);
    EXPECT_EQ(parse_run({"--kernel", "k", "--lock-step=50"})->config.lock_step, 50u);
    EXPECT_EQ(parse_run({"--kernel", "k"})->config.lock_step, 0u);
}

TEST(RunOptions, HelpWins)
{
    const auto request = parse_run({"--help"});
    ASSERT_TRUE(request) << request.error().text();
    EXPECT_TRUE(request->help);
}

TEST(RunOptions, ErrorsNameTheOption)
{
    const std::pair<Arguments, const char*> cases[] = {
        {{}, "--kernel"},
        {{"--kernel"}, "--kernel"},
        {{"--kernel", ""}, "--kernel"},
        {{"--kernel="}, "--kernel"},
        {{"--kernel", "--stats"}, "--kernel"},
        {{"--kernel", "a", "--kernel", "b"}, "--kernel"},
        {{"--kernel", "k", "--frob"}, "--frob"},
        {{"--kernel", "k", "-z"}, "-z"},
        {{"--kernel", "k", "stray"}, "stray"},
        {{"--kernel", "k", "--memory", "-1"}, "--memory"},
        {{"--kernel", "k", "--memory="}, "--memory"},
        {{"--kernel", "k", "--engine", "warp"}, "--engine"},
        {{"--kernel", "k", "--console", "moon"}, "--console"},
        {{"--kernel", "k", "--debug-exit", "0x10000"}, "--debug-exit"},
        {{"--kernel", "k", "--stats=xml"}, "--stats"},
        {{"--kernel", "k", "--switch-at", "0"}, "--switch-at"},
        {{"--kernel", "k", "--lock-step=0"}, "--lock-step"},
        {{"--kernel", "k", "--cpus", "two"}, "--cpus"},
        {{"--kernel", "k", "--initrd", ""}, "--initrd"},
    };
    for (const auto& [arguments, option] : cases) {
        const auto request = parse_run(arguments);
        ASSERT_FALSE(request) << option;
        EXPECT_EQ(request.error().kind(), base::ErrorKind::usage);
        EXPECT_THAT(request.error().text(), HasSubstr(option));
    }
}

}  // namespace
}  // namespace doppel::cli
