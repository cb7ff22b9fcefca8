// A whole VM around an engine of the test's own, whose vCPU plays back a script of exits.
#include "vm/vm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "base/bytes.h"
#include "bus/doorbell_set.h"

namespace doppel::vm {
namespace {

using engine::Exit;
using testing::HasSubstr;

struct Script {
    std::vector<Exit> exits;  // then halts for ever
    std::vector<Exit> seconds;  // the same, of the second vCPU
    unsigned max_vcpus = 1;
    std::vector<std::uint64_t> reads;
    std::vector<std::uint64_t> entries;  // RIP of every set_state()
    unsigned engine_resets = 0;
};

class ScriptedVcpu final : public engine::Vcpu {
public:
    ScriptedVcpu(Script& script, unsigned index)
        : script_(script), exits_(index == 0 ? script.exits : script.seconds)
    {
    }
    Exit run() noexcept override
    {
        {
            const std::lock_guard lock{mutex_};
            if (std::exchange(kicked_, false)) return engine::KickExit{};
        }
        if (next_ < exits_.size()) return exits_[next_++];
        return engine::HaltExit{};
    }
    void complete_read(std::uint64_t value) noexcept override { script_.reads.push_back(value); }
    void kick() noexcept override
    {
        const std::lock_guard lock{mutex_};
        kicked_ = true;
        condition_.notify_all();
    }
    void wait() noexcept override
    {
        std::unique_lock lock{mutex_};
        condition_.wait(lock, [this] { return kicked_; });
    }
    x86::CpuState state() noexcept override { return {}; }
    void set_state(const x86::CpuState& state) noexcept override
    {
        script_.entries.push_back(state.rip);
    }
    void set_budget(std::uint64_t) noexcept override {}
    std::uint64_t instructions() const noexcept override { return 42; }
    void counters(base::CounterList&) const override {}

private:
    Script& script_;
    const std::vector<Exit>& exits_;
    std::size_t next_ = 0;
    std::mutex mutex_;
    std::condition_variable condition_;
    bool kicked_ = false;
};

class ScriptedEngine final : public engine::Engine, public bus::LocalInterrupts {
public:
    explicit ScriptedEngine(Script& script) : script_(script) {}
    engine::EngineKind kind() const override { return engine::EngineKind::interpret; }
    engine::Capabilities capabilities() const override
    {
        engine::Capabilities capabilities;
        capabilities.counts_instructions = true;
        capabilities.max_vcpus = script_.max_vcpus;
        return capabilities;
    }
    base::Result<std::unique_ptr<engine::Vcpu>> create_vcpu(unsigned index) override
    {
        return std::unique_ptr<engine::Vcpu>{std::make_unique<ScriptedVcpu>(script_, index)};
    }
    bus::LocalInterrupts* local_interrupts() override { return this; }
    bus::Doorbells& doorbells() override { return doorbells_; }
    void reset() noexcept override { ++script_.engine_resets; }
    void deliver(const bus::Msi&) noexcept override {}
    void set_external_interrupt(bool) noexcept override {}
    void inject_nmi() noexcept override {}

private:
    Script& script_;
    bus::DoorbellSet doorbells_;
};

class VmTest : public testing::Test {
protected:
    void SetUp() override
    {
        folder_ = (std::filesystem::temp_directory_path() / "doppel-vm-XXXXXX").string();
        ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
        config_.kernel = folder_ + "/kernel";
        config_.console.kind = ConsoleKind::none;
        config_.memory_bytes = 16 << 20;
        config_.debug_exit_port = 0xf4;
        // Multiboot with addresses in the header, loaded at 1 MiB.
        const std::uint32_t flags = 0x10000, load = 0x100000;
        write_kernel({0x1badb002, flags, 0u - 0x1badb002u - flags, load, load, 0, 0, load + 32,
                      0xf4f4f4f4});
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    void write_kernel(const std::vector<std::uint32_t>& words)
    {
        std::ofstream{config_.kernel, std::ios::binary}.write(
            reinterpret_cast<const char*>(words.data()),
            static_cast<std::streamsize>(words.size() * 4));
    }
    base::Result<std::unique_ptr<Vm>> create()
    {
        return Vm::create(config_, [this](const engine::EngineConfig&)
                                       -> base::Result<std::unique_ptr<engine::Engine>> {
            return std::unique_ptr<engine::Engine>{std::make_unique<ScriptedEngine>(script_)};
        });
    }
    VmResult run()
    {
        auto vm = create();
        if (!vm) {
            ADD_FAILURE() << vm.error().text();
            return {};
        }
        EXPECT_EQ((*vm)->state(), Vm::State::configured);
        const VmResult result = (*vm)->run();
        EXPECT_EQ((*vm)->state(), Vm::State::stopped);
        stats_ = (*vm)->stats();
        return result;
    }
    std::string refusal()
    {
        const auto vm = create();
        if (vm) return "accepted";
        EXPECT_EQ(vm.error().kind(), base::ErrorKind::usage);
        EXPECT_EQ(vm.error().text().find('\n'), std::string::npos);
        return vm.error().text();
    }
    std::string folder_;
    VmConfig config_;
    Script script_;
    VmStats stats_;
};

TEST_F(VmTest, PowerOffThroughAcpi)
{
    script_.exits = {engine::IoWriteExit{0x604, 2, (5u << 10) | (1u << 13)}};
    EXPECT_EQ(run().kind, VmResult::Kind::powered_off);
    EXPECT_EQ(script_.entries, std::vector<std::uint64_t>{0x100020});
    EXPECT_EQ(stats_.instructions, 42u);
    EXPECT_THAT(stats_.counters.values(), testing::Contains(std::pair<std::string, std::uint64_t>(
                                              "exits.io_write", 1)));
}

TEST_F(VmTest, DebugExitTakesOneTwoAndFourBytes)
{
    for (const std::uint8_t size : {1, 2, 4}) {
        script_ = {};
        const std::uint64_t value = size == 1 ? 0x21 : size == 2 ? 0x4321 : 0x87654321;
        script_.exits = {engine::IoWriteExit{0xf4, size, value}};
        const auto result = run();
        EXPECT_EQ(result.kind, VmResult::Kind::debug_exit);
        EXPECT_EQ(result.value, value);
        EXPECT_EQ(result.exit_status(), 0x43);
    }
}

TEST_F(VmTest, DebugExitPortOfADeviceIsRefused)
{
    for (const std::uint16_t port : {0x3f8, 0x20, 0xcf9, 0x604, 0x513}) {
        config_.debug_exit_port = port;
        EXPECT_THAT(refusal(), HasSubstr("--debug-exit")) << port;
    }
    config_.debug_exit_port = 0x3f7;
    EXPECT_EQ(refusal(), "accepted");
    config_.debug_exit_port = 0xffff;
    EXPECT_EQ(refusal(), "accepted");
}

TEST_F(VmTest, EveryWayToResetRestartsInPlace)
{
    script_.exits = {engine::IoWriteExit{0x64, 1, 0xfe}, engine::IoWriteExit{0x92, 1, 1},
                     engine::IoWriteExit{0xcf9, 1, 2}, engine::IoWriteExit{0xcf9, 1, 6},
                     engine::IoWriteExit{0xf4, 1, 3}};
    EXPECT_EQ(run().kind, VmResult::Kind::debug_exit);
    EXPECT_EQ(script_.entries.size(), 4u);
    EXPECT_EQ(script_.engine_resets, 4u);
}

TEST_F(VmTest, MoreProcessorsThanTheEngineRuns)
{
    config_.cpus = 2;
    EXPECT_THAT(refusal(), HasSubstr("--cpus 2: the interpret engine runs 1 at most"));
}

// The first one halts meanwhile, and has to be there for the reset.
TEST_F(VmTest, TheSecondProcessorResetsAndEndsIt)
{
    config_.cpus = 2;
    script_.max_vcpus = 2;
    script_.exits = {engine::IoReadExit{0x3fd, 1}};
    script_.seconds = {engine::IoWriteExit{0x64, 1, 0xfe}, engine::IoReadExit{0x71, 1},
                       engine::IoWriteExit{0x64, 1, 0xfe}, engine::IoWriteExit{0xf4, 1, 3}};
    const VmResult result = run();
    EXPECT_EQ(result.kind, VmResult::Kind::debug_exit);
    EXPECT_EQ(result.value, 3u);
    // The first enters the guest anew each time; the second waits for it to be started.
    EXPECT_EQ(script_.entries.size(), script_.engine_resets);
    EXPECT_EQ(stats_.instructions, 84u);
    EXPECT_THAT(stats_.counters.values(),
                testing::IsSupersetOf({std::pair<std::string, std::uint64_t>{"exits.io_write", 3},
                                       {"exits.io_read", 2}}));
}

TEST_F(VmTest, ReadsReachDevicesAndHoles)
{
    script_.exits = {engine::IoReadExit{0x3fd, 1}, engine::IoReadExit{0x80, 2},
                     engine::MmioReadExit{base::Gpa{0xe0000000}, 8},
                     engine::IoWriteExit{0x510, 2, 0}, engine::IoReadExit{0x511, 1},
                     engine::IoWriteExit{0xf4, 1, 0}};
    EXPECT_EQ(run().exit_status(), 1);
    ASSERT_EQ(script_.reads.size(), 4u);
    EXPECT_EQ(script_.reads[0], 0x60u);
    EXPECT_EQ(script_.reads[1], 0xffffu);
    EXPECT_EQ(script_.reads[2], ~std::uint64_t{0});
    EXPECT_EQ(script_.reads[3], 'Q');
}

TEST_F(VmTest, TripleFaultAndEngineFailureEndIt)
{
    script_.exits = {engine::ShutdownExit{"triple fault at 0x1234"}};
    auto result = run();
    EXPECT_EQ(result.kind, VmResult::Kind::triple_fault);
    EXPECT_EQ(result.text, "triple fault at 0x1234");
    script_ = {};
    script_.exits = {engine::ErrorExit{"gave up"}};
    result = run();
    EXPECT_EQ(result.kind, VmResult::Kind::failed);
    EXPECT_EQ(result.text, "gave up");
}

TEST_F(VmTest, StopEndsAHaltedGuest)
{
    auto vm = create();
    ASSERT_TRUE(vm) << vm.error().text();
    std::thread stopper{[&vm] {
        while ((*vm)->state() != Vm::State::running) std::this_thread::yield();
        (*vm)->stop();
    }};
    EXPECT_EQ((*vm)->run().kind, VmResult::Kind::left_by_user);
    stopper.join();
}

TEST_F(VmTest, StatisticsWhileItRuns)
{
    script_.exits = {engine::IoReadExit{0x71, 1}};
    auto vm = create();
    ASSERT_TRUE(vm) << vm.error().text();
    std::vector<VmStats> answers;
    const auto value = [&answers](std::string_view name) {
        const auto& all = answers.back().counters.values();
        const auto found = std::find_if(all.begin(), all.end(), [&](const auto& c) { return c.first == name; });
        return found == all.end() ? std::nullopt : std::optional{found->second};
    };
    std::thread asker{[&vm, &answers] {
        while ((*vm)->state() != Vm::State::running) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
        // Both at once, and the third from the loop, as a server does.
        (*vm)->request_stats([&](const VmStats& stats) { answers.push_back(stats); });
        (*vm)->request_stats([&](const VmStats& stats) {
            answers.push_back(stats);
            (*vm)->request_stats([&](const VmStats& last) {
                answers.push_back(last);
                (*vm)->stop();
            });
        });
    }};
    EXPECT_EQ((*vm)->run().kind, VmResult::Kind::left_by_user);
    asker.join();
    ASSERT_EQ(answers.size(), 3u);
    EXPECT_EQ(answers.back().engine, "interpret");
    EXPECT_GT(answers.front().wall_seconds, 0);
    EXPECT_GE(answers.back().wall_seconds, answers.front().wall_seconds);
    EXPECT_EQ(value("exits.io_read"), 1u);
    // The script waits nearly all the time.
    EXPECT_GT(value("time.halted_us").value_or(0), 10'000u);
    EXPECT_LT(value("time.guest_us").value_or(~0ull), value("time.halted_us").value_or(0));
    EXPECT_TRUE(value("time.vmm_us"));
}

TEST_F(VmTest, SignalsEndIt)
{
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        auto vm = create();
        ASSERT_TRUE(vm) << vm.error().text();
        // Before the sender starts, or the signal would find its thread and kill the test.
        sigset_t all, old;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_BLOCK, &all, &old);
        std::thread sender{[&vm, signal] {
            while ((*vm)->state() != Vm::State::running) std::this_thread::yield();
            ::kill(::getpid(), signal);
        }};
        const auto result = (*vm)->run();
        ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
        sender.join();
        EXPECT_EQ(result.kind, VmResult::Kind::signalled);
        EXPECT_EQ(result.exit_status(), 128 + signal);
    }
}

TEST_F(VmTest, BadFilesAreNamedInOneLine)
{
    config_.kernel = folder_ + "/missing";
    EXPECT_THAT(refusal(), HasSubstr("--kernel"));
    EXPECT_THAT(refusal(), HasSubstr("No such file"));
    config_.kernel = folder_;
    EXPECT_THAT(refusal(), HasSubstr("a directory"));
    config_.kernel = "/dev/null";
    EXPECT_THAT(refusal(), HasSubstr("empty"));
    config_.kernel = "/dev/zero";
    EXPECT_THAT(refusal(), HasSubstr("--memory"));
    config_.kernel = folder_ + "/kernel";
    config_.initrd = folder_ + "/missing";
    EXPECT_THAT(refusal(), HasSubstr("--initrd"));
    std::ofstream{folder_ + "/big"} << "x";
    std::filesystem::resize_file(folder_ + "/big", 15 << 20);
    config_.initrd = folder_ + "/big";
    EXPECT_THAT(refusal(), HasSubstr("--initrd"));
    config_.initrd.clear();
    config_.memory_bytes = 0;
    EXPECT_THAT(refusal(), HasSubstr("--memory"));
}

TEST_F(VmTest, NothingIsTouchedBeforeEverythingIsChecked)
{
    const std::string output = folder_ + "/console";
    std::ofstream{output} << "precious";
    config_.console = {ConsoleKind::file, output};
    config_.kernel = folder_ + "/missing";
    EXPECT_THAT(refusal(), HasSubstr("--kernel"));
    config_.kernel = folder_ + "/kernel";
    config_.debug_exit_port = 0x3f8;
    EXPECT_THAT(refusal(), HasSubstr("--debug-exit"));
    std::ifstream file{output};
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>{file}, {}), "precious");
}

TEST_F(VmTest, ConsoleOutputIsOutWhenRunReturns)
{
    const std::string output = folder_ + "/console";
    config_.console = {ConsoleKind::file, output};
    for (const char c : std::string_view{"hello"}) {
        script_.exits.push_back(engine::IoWriteExit{0x3f8, 1, static_cast<std::uint64_t>(c)});
    }
    script_.exits.push_back(engine::IoWriteExit{0xf4, 1, 0});
    EXPECT_EQ(run().exit_status(), 1);
    std::ifstream file{output};
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>{file}, {}), "hello");
}

}  // namespace
}  // namespace doppel::vm
