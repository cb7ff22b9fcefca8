#include "vm/vm.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "backends/character/character_backend.h"
#include "base/event_loop.h"
#include "machine/pc.h"
#include "vm/processors.h"
#include "vm/signals.h"
#include "vm/virtio_specs.h"
#include "x86/cpuid.h"

namespace doppel::vm {

namespace {

using engine::Exit;

double seconds_since(std::chrono::steady_clock::time_point begin)
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Engines count some exits too, more finely; a name counts once, as its first owner has it.
base::CounterList without_repetitions(const base::CounterList& list)
{
    base::CounterList result;
    std::set<std::string_view> seen;
    for (const auto& [name, value] : list.values()) {
        if (seen.insert(name).second) result.add(name, value);
    }
    return result;
}

struct MemoryFiles {
    std::vector<memory::MemoryFile> files;
    std::vector<std::uint64_t> sizes;  // theirs, bytes
};

base::Result<MemoryFiles> open_memory_files(const VmConfig& config)
{
    MemoryFiles all;
    for (const PmemSpec& pmem : config.pmems) {
        auto file = memory::open_memory_file(pmem.path, pmem.size, pmem.read_only);
        if (!file) return file.error().with_context("--pmem");
        all.sizes.push_back(file->size);
        all.files.push_back(std::move(*file));
    }
    return all;
}

// The guest's processor has a number of address bits.
base::Result<void> check_addresses(const memory::GuestMemory& memory, const x86::CpuidPolicy& cpuid)
{
    const memory::Slot& last = memory.slots().back();
    const std::uint64_t bits = cpuid.physical_address_bits();
    if (((last.start.value + last.size - 1) >> bits) == 0) return {};
    return base::usage_error("--memory and --pmem: more than a processor with " +
                             std::to_string(bits) + " address bits can reach; give less");
}

class VmImpl final : public Vm {
public:
    base::Result<void> build(const VmConfig& config, std::span<const EngineFactory> factories);

    VmResult run() override;
    void stop() override { finish({VmResult::Kind::left_by_user, 0, {}}); }
    [[nodiscard]] State state() const override { return state_; }
    [[nodiscard]] VmStats stats() const override;
    void request_stats(std::function<void(VmStats)> reply) override;
    [[nodiscard]] base::EventLoop& event_loop() override { return *loop_; }

private:
    backends::ConsoleEvents console_events();
    // The first end counts; later ones are consequences. Any thread.
    void finish(VmResult result);
    base::Result<void> make_engine(const VmConfig& config,
                                   std::span<const EngineFactory> factories);
    void ended(const Exit& exit);
    // On the first vCPU's thread, while none runs.
    void between_exits();
    void answer_stats();

    // In order of construction; what is later uses what is earlier.
    std::unique_ptr<base::EventLoop> loop_;
    std::unique_ptr<bus::HostVmClock> clock_;
    std::unique_ptr<memory::GuestMemory> memory_;
    std::optional<x86::CpuidPolicy> cpuid_;
    std::unique_ptr<engine::Engine> engine_;
    SwitchingEngine* switching_ = nullptr;  // engine_, when there are several
    std::string engine_names_;
    std::unique_ptr<backends::CharacterBackend> console_;
    // Made after the machine, gone after it: what devices still finish when they end writes to
    // memory, and the vCPUs are told of that.
    std::unique_ptr<Processors> processors_;
    std::unique_ptr<machine::Pc> pc_;

    std::atomic<State> state_ = State::configured;
    std::atomic<bool> reset_requested_ = false;
    std::mutex result_mutex_;
    std::optional<VmResult> result_;

    bool entered_ = false;  // the guest has begun
    std::uint64_t resets_ = 0;
    std::atomic<bool> stats_requested_ = false;
    std::mutex stats_mutex_;
    std::vector<std::function<void(VmStats)>> stats_replies_;
    std::chrono::steady_clock::time_point begin_;
    std::optional<double> wall_seconds_;  // once it has ended
};

base::Result<void> VmImpl::make_engine(const VmConfig& config,
                                       std::span<const EngineFactory> factories)
{
    const engine::EngineConfig engine_config{*memory_, *clock_, *cpuid_, config.cpus,
                                             config.lock_step};
    if (factories.size() == 1) {
        engine_ = TRY(factories[0](engine_config));
        engine_names_ = engine::name(engine_->kind());
        return {};
    }
    auto switching = TRY(SwitchingEngine::create(factories, config.switch_at, engine_config));
    switching_ = switching.get();
    engine_ = std::move(switching);
    engine_names_ = engine::name(engine_->kind());
    for (const engine::EngineKind kind : config.next_engines) {
        engine_names_ += "," + std::string{engine::name(kind)};
    }
    return {};
}

base::Result<void> VmImpl::build(const VmConfig& config, std::span<const EngineFactory> factories)
{
    TRY(validate(config, host_memory_bytes()));
    MemoryFiles files = TRY(open_memory_files(config));
    const machine::PcConfig pc_config{
        config.cpus, config.debug_exit_port,
        virtio_specs(config, console_events(), files.sizes), files.sizes};
    TRY(machine::Pc::check(pc_config));
    auto image = TRY(machine::boot::GuestImage::prepare(
        {config.kernel, config.initrd, config.cmdline}, config.memory_bytes,
        machine::Pc::topology(pc_config, config.memory_bytes)));

    loop_ = TRY(base::EventLoop::create());
    clock_ = TRY(bus::HostVmClock::create(*loop_));
    memory_ = TRY(machine::Pc::create_memory(config.memory_bytes, std::move(files.files)));
    cpuid_ = x86::CpuidPolicy::create(x86::this_host(), config.cpus, clock_->tsc_hz());
    TRY(check_addresses(*memory_, *cpuid_));
    TRY(make_engine(config, factories));
    if (const unsigned most = engine_->capabilities().max_vcpus; config.cpus > most) {
        return base::usage_error(fmt::format(
            "--cpus {}: the {} engine runs {} at most; use --cpus {} or another --engine",
            config.cpus, engine_names_, most, most));
    }

    // Last among what can fail for the user's reasons: a console may be a file to truncate.
    console_ = TRY(backends::create_character_backend(console_text(config.console), *loop_,
                                                      console_events()));

    machine::PcEvents events;
    events.power_off = [this] { finish({VmResult::Kind::powered_off, 0, {}}); };
    events.debug_exit = [this](std::uint64_t value) {
        finish({VmResult::Kind::debug_exit, value, {}});
    };
    events.reset = [this, no_reboot = config.no_reboot] {
        if (no_reboot) return finish({VmResult::Kind::powered_off, 0, {}});
        reset_requested_ = true;
        if (processors_) processors_->meet();
    };
    pc_ = TRY(machine::Pc::create({*memory_, *clock_, *engine_, *console_}, pc_config,
                                  std::move(image), std::move(events)));
    ProcessorEvents processor_events;
    processor_events.ended = [this](const Exit& exit) { ended(exit); };
    processor_events.between = [this] { between_exits(); };
    processors_ = std::make_unique<Processors>(pc_->bus(), std::move(processor_events));
    processors_->on_end([this] { loop_->stop(); });
    return processors_->create(*engine_, config.cpus);
}

// For the serial port, and for each virtio console.
backends::ConsoleEvents VmImpl::console_events()
{
    return {[this] { stop(); },
            [this](const base::Error& error) {
                finish({VmResult::Kind::failed, 0, error.text()});
            }};
}

void VmImpl::finish(VmResult result)
{
    {
        const std::lock_guard lock{result_mutex_};
        if (!result_) result_ = std::move(result);
    }
    if (processors_) processors_->stop();
}

void VmImpl::ended(const Exit& exit)
{
    if (const auto* shutdown = std::get_if<engine::ShutdownExit>(&exit)) {
        finish({VmResult::Kind::triple_fault, 0, shutdown->reason});
    } else if (const auto* error = std::get_if<engine::ErrorExit>(&exit)) {
        finish({VmResult::Kind::failed, 0, error->reason});
    }
}

void VmImpl::between_exits()
{
    if (!std::exchange(entered_, true)) processors_->first().set_state(pc_->entry());
    if (reset_requested_.exchange(false)) {
        ++resets_;
        if (const auto restarted = pc_->restart(); !restarted) {
            finish({VmResult::Kind::failed, 0, restarted.error().text()});
            return;
        }
        processors_->first().set_state(pc_->entry());
    }
    if (stats_requested_.exchange(false)) answer_stats();
}

VmResult VmImpl::run()
{
    ASSERT(state_ == State::configured);
    const auto failed = [this](const base::Error& error) {
        state_ = State::stopped;
        return VmResult{VmResult::Kind::failed, 0, error.text()};
    };
    const auto on_signal = [this](int signal) {
        finish({VmResult::Kind::signalled, static_cast<std::uint64_t>(signal), {}});
    };
    std::function<void()> on_usr2;
    if (switching_ != nullptr) on_usr2 = [this] { switching_->request_switch(); };
    const auto signals = SignalWatch::create(*loop_, on_signal, std::move(on_usr2));
    if (!signals) return failed(signals.error());
    if (const auto started = pc_->restart(); !started) return failed(started.error());

    state_ = State::running;
    begin_ = std::chrono::steady_clock::now();
    processors_->meet();
    {
        const std::lock_guard lock{result_mutex_};
        if (result_) processors_->stop();
    }
    processors_->start();
    loop_->run();
    // The loop also ends when epoll itself fails.
    processors_->stop();
    processors_->join();
    pc_->stop();
    wall_seconds_ = seconds_since(begin_);
    console_->flush();
    state_ = State::stopped;
    const std::lock_guard lock{result_mutex_};
    return result_.value_or(VmResult{VmResult::Kind::failed, 0, "The event loop ended early"});
}

void VmImpl::request_stats(std::function<void(VmStats)> reply)
{
    {
        const std::lock_guard lock{stats_mutex_};
        stats_replies_.push_back(std::move(reply));
    }
    stats_requested_ = true;
    processors_->meet();
}

void VmImpl::answer_stats()
{
    std::vector<std::function<void(VmStats)>> replies;
    {
        const std::lock_guard lock{stats_mutex_};
        replies.swap(stats_replies_);
    }
    loop_->post([replies = std::move(replies), now = stats()] {
        for (const auto& reply : replies) reply(now);
    });
}

VmStats VmImpl::stats() const
{
    VmStats stats;
    stats.engine = engine_names_;
    stats.wall_seconds =
        wall_seconds_ || state_ == State::configured ? wall_seconds_.value_or(0) : seconds_since(begin_);
    if (engine_->capabilities().counts_instructions) stats.instructions = processors_->instructions();
    stats.counters.add("machine.resets", resets_);
    processors_->counters(stats.counters);
    engine_->counters(stats.counters);
    pc_->counters(stats.counters);
    stats.counters = without_repetitions(stats.counters);
    return stats;
}

}  // namespace

int VmResult::exit_status() const
{
    switch (kind) {
    case Kind::powered_off:
    case Kind::left_by_user: return 0;
    case Kind::debug_exit: return static_cast<int>(((value << 1) | 1) & 0xff);
    case Kind::triple_fault: return 4;
    case Kind::failed: return 3;
    case Kind::signalled: return 128 + static_cast<int>(value);
    }
    return 3;
}

base::Result<std::unique_ptr<Vm>> Vm::create(const VmConfig& config, const EngineFactory& factory)
{
    return create(config, std::span{&factory, 1});
}

base::Result<std::unique_ptr<Vm>> Vm::create(const VmConfig& config,
                                             std::span<const EngineFactory> factories)
{
    auto vm = std::make_unique<VmImpl>();
    TRY(vm->build(config, factories));
    return std::unique_ptr<Vm>{std::move(vm)};
}

}  // namespace doppel::vm
