// Registers every case as one test per place it runs: native.NAME, interpret.NAME, kvm.NAME.
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

class EngineCase : public testing::Test {
public:
    EngineCase(const Case& c, std::string engine) : case_(c), engine_(std::move(engine)) {}
    void TestBody() override
    {
        if (engine_ == "kvm" && (case_.where & on_emulated_kvm) == 0 && !kvm_is_hardware()) {
            GTEST_SKIP() << "this host's KVM is software and gets this wrong";
        }
        static std::map<std::string, base::Result<std::unique_ptr<TestEngine>>> engines;
        const auto [found, added] =
            engines.try_emplace(engine_, base::host_error("not made"));
        if (added) found->second = TestEngine::create(engine_, layout::memory_size);
        if (!found->second && engine_ == "kvm") GTEST_SKIP() << found->second.error().text();
        ASSERT_TRUE(found->second) << found->second.error().text();
        TestEngine& engine = *found->second.value();
        const Outcome outcome = run_on_engine(engine, case_);
        report(case_, differences(case_, outcome, [&](std::uint64_t at, std::span<std::byte> to) {
                   return engine.memory().read(base::Gpa{at}, to);
               }));
    }

private:
    const Case& case_;
    std::string engine_;
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
    }
}

}  // namespace

}  // namespace doppel::conformance

int main(int argc, char** argv)
{
    testing::InitGoogleTest(&argc, argv);
    doppel::conformance::register_cases();
    return RUN_ALL_TESTS();
}
