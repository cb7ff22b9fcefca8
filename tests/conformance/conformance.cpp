// Registers every case as one test per place it runs: native.NAME, interpret.NAME, kvm.NAME,
// translate.NAME, translate_high.NAME.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <fstream>
#include <map>
#include <string>

#include "bare_machine.h"
#include "native.h"

namespace doppel::conformance {

namespace {

void report(const Case& c, const std::vector<std::string>& problems)
{
    for (const std::string& problem : problems) {
        ADD_FAILURE_AT(fmt::format("cases/{}", c.file).c_str(), static_cast<int>(c.line))
            << c.name << ": " << problem;
    }
}

// Without VT-x or AMD-V behind it, /dev/kvm is some emulator's.
bool kvm_is_hardware()
{
    static const bool hardware = [] {
        std::ifstream file{"/proc/cpuinfo"};
        std::string line;
        while (std::getline(file, line)) {
            if (!line.starts_with("flags")) continue;
            line += ' ';
            return line.find(" vmx ") != std::string::npos || line.find(" svm ") != std::string::npos;
        }
        return false;
    }();
    return hardware;
}

class NativeCase : public testing::Test {
public:
    explicit NativeCase(const Case& c) : case_(c) {}
    void TestBody() override
    {
        static auto native = Native::create();
        ASSERT_TRUE(native) << native.error().text();
        report(case_, differences(case_, (*native)->run(case_), Native::read_memory));
    }

private:
    const Case& case_;
};

// The engines that cases run on, kept from case to case.
class Engines {
public:
    using Made = base::Result<std::unique_ptr<TestEngine>>;

    Made& get(const std::string& name)
    {
        Slot& slot = slots_.try_emplace(name).first->second;
        // Pages whose code is replaced over and over are left to the interpreter: begin anew
        // before that, so that each case runs as code that is seen for the first time.
        constexpr unsigned fresh_code = 50;
        if (name == "translate" && slot.runs == fresh_code) {
            account(slot);
            slot = {};
        }
        if (slot.runs++ == 0) slot.engine = TestEngine::create(name, layout::memory_size);
        return slot.engine;
    }
    // What the translate engine did in all cases.
    Work finish()
    {
        for (auto& [name, slot] : slots_) account(slot);
        slots_.clear();
        return done_;
    }

private:
    struct Slot {
        Made engine = base::host_error("not made");
        unsigned runs = 0;
    };
    void account(const Slot& slot)
    {
        if (!slot.engine) return;
        const Work work = slot.engine.value()->work();
        done_.entries_user += work.entries_user;
        done_.entries_supervisor += work.entries_supervisor;
        done_.blocks += work.blocks;
        done_.instructions += work.instructions;
    }

    std::map<std::string, Slot> slots_;
    Work done_;
};

Engines& engines()
{
    static Engines all;
    return all;
}

// Fails when the translate engine was asked to run 64-bit code and translated none of it.
class TranslatedCode final : public testing::Environment {
public:
    void TearDown() override
    {
        const Work work = engines().finish();
        if (!expected_) return;
        fmt::print("translated: {} blocks of {} instructions, entered {} times at user's and {} "
                   "times at supervisor's addresses\n",
                   work.blocks, work.instructions, work.entries_user, work.entries_supervisor);
        EXPECT_GT(work.instructions, 0u);
        EXPECT_GT(work.entries_user + work.entries_supervisor, 0u);
    }
    static void expect() { expected_ = true; }

private:
    static inline bool expected_ = false;
};

class EngineCase : public testing::Test {
public:
    EngineCase(const Case& c, std::string engine, Placement placement = Placement::as_written)
        : case_(c), engine_(std::move(engine)), placement_(placement)
    {
    }
    void TestBody() override
    {
        if (engine_ == "kvm" && (case_.where & on_emulated_kvm) == 0 && !kvm_is_hardware()) {
            GTEST_SKIP() << "this host's KVM is software and gets this wrong";
        }
        if (engine_ == "translate" && !engine::translate_problem().empty()) {
            GTEST_SKIP() << engine::translate_problem();
        }
        const Engines::Made& made = engines().get(engine_);
        if (!made && engine_ == "kvm") GTEST_SKIP() << made.error().text();
        ASSERT_TRUE(made) << made.error().text();
        TestEngine& engine = *made.value();
        if (engine_ == "translate" && case_.mode == Mode::kernel64) TranslatedCode::expect();
        const Outcome outcome = run_on_engine(engine, case_, placement_);
        report(case_, differences(case_, outcome, [&](std::uint64_t at, std::span<std::byte> to) {
                   return engine.memory().read(base::Gpa{at}, to);
               }));
    }

private:
    const Case& case_;
    std::string engine_;
    Placement placement_;
};

void register_cases()
{
    for (const Case& c : all_cases()) {
        const std::string name{c.name};
        const auto add = [&](const char* where, auto make) {
            testing::RegisterTest(where, name.c_str(), nullptr, nullptr,
                                  fmt::format("cases/{}", c.file).c_str(), static_cast<int>(c.line),
                                  make);
        };
        if ((c.where & on_native) != 0) {
            add("native", [&c]() -> testing::Test* { return new NativeCase(c); });
        }
        if ((c.where & on_interpret) != 0) {
            add("interpret", [&c]() -> testing::Test* { return new EngineCase(c, "interpret"); });
        }
        if ((c.where & on_kvm) != 0) {
            add("kvm", [&c]() -> testing::Test* { return new EngineCase(c, "kvm"); });
        }
        if ((c.where & on_translate) != 0) {
            add("translate", [&c]() -> testing::Test* { return new EngineCase(c, "translate"); });
        }
        if ((c.where & on_translate_high) != 0) {
            add("translate_high", [&c]() -> testing::Test* {
                return new EngineCase(c, "translate", Placement::moved_high);
            });
        }
    }
}

}  // namespace

}  // namespace doppel::conformance

int main(int argc, char** argv)
{
    testing::InitGoogleTest(&argc, argv);
    doppel::conformance::register_cases();
    testing::AddGlobalTestEnvironment(new doppel::conformance::TranslatedCode);
    return RUN_ALL_TESTS();
}
