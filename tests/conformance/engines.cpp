#include "engines.h"

#include <x86intrin.h>

#include <chrono>

namespace doppel::conformance {

namespace {

// Cases arm no timers: time only has to go on.
class TestClock final : public bus::VmClock {
public:
    std::uint64_t now_ns() const override
    {
        return static_cast<std::uint64_t>(
            std::chrono::steady_clock::now().time_since_epoch().count());
    }
    std::uint64_t tsc() const override { return __rdtsc(); }
    std::optional<bus::HostOffsets> host_offsets() const override { return bus::HostOffsets{}; }
    std::uint64_t tsc_hz() const override { return 2'000'000'000; }
    std::unique_ptr<bus::Timer> create_timer(std::function<void()>) override
    {
        class NeverTimer final : public bus::Timer {
            void arm(std::uint64_t) override {}
            void cancel() override {}
        };
        return std::make_unique<NeverTimer>();
    }
};

}  // namespace

TestEngine::~TestEngine() = default;

base::Result<std::unique_ptr<TestEngine>> TestEngine::create(std::string_view engine,
                                                             std::uint64_t memory_size)
{
    std::unique_ptr<TestEngine> test{new TestEngine};
    test->memory_ = TRY(memory::GuestMemory::create(memory_size));
    TRY(test->memory_->add_slot(base::Gpa{0}, memory_size, 0));
    test->clock_ = std::make_unique<TestClock>();
    test->cpuid_ = std::make_unique<x86::CpuidPolicy>(
        x86::CpuidPolicy::create(x86::this_host(), 1, test->clock_->tsc_hz()));
    const bool lock_step = engine == "lock-step";
    const engine::EngineConfig config{*test->memory_, *test->clock_, *test->cpuid_, 1,
                                      lock_step ? 1u : 0u};
    test->engine_ = TRY(engine == "kvm" ? engine::create_kvm_engine(config)
                        : engine == "translate" || lock_step
                            ? engine::create_translate_engine(config)
                            : engine::create_interpret_engine(config));
    test->vcpu_ = TRY(test->engine_->create_vcpu(0));
    return test;
}

Work TestEngine::work() const
{
    base::CounterList list;
    vcpu_->counters(list);
    Work work;
    for (const auto& [name, value] : list.values()) {
        if (name == "translate.entries_user") work.entries_user = value;
        if (name == "translate.entries_supervisor") work.entries_supervisor = value;
        if (name == "user_code.blocks" || name == "supervisor_code.blocks") work.blocks += value;
        if (name.ends_with("_code.guest_instructions")) work.instructions += value;
    }
    return work;
}

}  // namespace doppel::conformance
