#include "engine/interpret/interpreter.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "engine/interpret/block_cache.h"
#include "engine/interpret/core.h"
#include "engine/interpret/runner.h"
#include "engine/interpret/system/system.h"
#include "engine/interpret/thunk/thunk.h"
#include "engine/interpret/trial.h"
#include "x86/canonical.h"

namespace doppel::engine::interpret {

namespace {

constexpr std::uint64_t apic_global_enable = 1u << 11;
constexpr std::uint64_t apic_x2apic_enable = 1u << 10;

// The local APIC's page in xAPIC mode: 32-bit registers, 16 bytes apart (SDM volume 3
// section 11.4.1). Other sizes and offsets are undefined there; they read as the register's
// bytes and zeros, and narrow writes do nothing.
class ApicPage final : public Core::PhysicalHook {
public:
    ApicPage(Core& core, System& system) : core_(core), system_(system) {}

    bool read(base::Gpa gpa, unsigned size, std::uint64_t& value) noexcept override
    {
        if (!inside(gpa)) return false;
        value = 0;
        const unsigned byte = gpa.value & 0xf;
        if (byte >= 4) return true;
        if (!system_.environment().apic_read(reg(gpa), value)) return refuse();
        value = (value & 0xffffffff) >> (8 * byte);
        if (size < 4) value &= (std::uint64_t{1} << (8 * size)) - 1;
        return true;
    }

    bool write(base::Gpa gpa, unsigned size, std::uint64_t value) noexcept override
    {
        if (!inside(gpa)) return false;
        if (size < 4 || (gpa.value & 0xf) != 0) return true;
        return system_.environment().apic_write(reg(gpa), value & 0xffffffff) || refuse();
    }

private:
    [[nodiscard]] bool inside(base::Gpa gpa) const
    {
        const std::uint64_t base = core_.state.apic_base;
        return (base & (apic_global_enable | apic_x2apic_enable)) == apic_global_enable &&
               gpa.page() == (base & 0xffffffffff000) >> base::page_shift;
    }
    static std::uint32_t reg(base::Gpa gpa)
    {
        return static_cast<std::uint32_t>(gpa.page_offset() >> 4);
    }
    // The access then looks like one of a device; the run loop stops before the instruction.
    bool refuse()
    {
        system_.environment_refused = true;
        return false;
    }

    Core& core_;
    System& system_;
};

class BlockInterpreter final : public Interpreter {
public:
    BlockInterpreter(memory::GuestMemory& memory, bus::VmClock& clock,
                     const x86::CpuidPolicy& cpuid, Environment& environment,
                     std::unique_ptr<ThunkCache> thunks, const Sharing& sharing)
        : core_(memory, clock, cpuid), blocks_(core_, memory, sharing.code, sharing.vcpu), system_(core_, environment),
          apic_page_(core_, system_), runner_(core_, system_, blocks_), trial_(memory.ram())
    {
        core_.blocks = &blocks_;
        core_.system = &system_;
        core_.thunks = thunks.release();
        core_.physical_hook = &apic_page_;
    }
    ~BlockInterpreter() override { destroy_thunks(core_); }

    void set_state(const x86::CpuState& state) override
    {
        shut_down_ = false;
        core_.import_state(state);
        system_.state_imported();
    }
    [[nodiscard]] x86::CpuState state() const override
    {
        x86::CpuState result = core_.export_state();
        result.tsc = system_.tsc();
        return result;
    }

    void forget_code() override { blocks_.clear(); }

    [[nodiscard]] Registers direct() override
    {
        return {core_.gpr.data(), &core_.state.rip, &core_.state};
    }
    [[nodiscard]] std::uint64_t rflags() const override { return core_.rflags(); }
    void set_rflags(std::uint64_t value) override { core_.set_rflags(value); }
    void mode_changed() override { core_.update_mode(); }
    void vectors_elsewhere(bool elsewhere) override { core_.vectors_elsewhere = elsewhere; }
    void flush_translations(bool keep_global) override { core_.drop_translations(keep_global); }
    bool deliver_fault(const x86::Fault& fault) override
    {
        if (shut_down_) return false;
        shut_down_ = !runner_.deliver_fault(fault);
        return !shut_down_;
    }
    x86::WalkResult walk(std::uint64_t linear, x86::Access access, bool user) override
    {
        return MemoryAccess::walk(core_, linear, access, user);
    }
    x86::WalkResult probe(std::uint64_t linear, x86::Access access, bool user) override
    {
        return MemoryAccess::probe(core_, linear, access, user);
    }
    bool read_system(std::uint64_t linear, std::span<std::byte> to) override;
    std::optional<x86::Fault> fetch(std::uint64_t linear, std::uint64_t& ram_offset) override;

    void set_observer(Observer* observer) override { core_.observer = observer; }
    void watch_code(std::uint64_t ram_offset) override { blocks_.watch_for_observer(ram_offset); }
    void unwatch_code(std::uint64_t ram_offset) override
    {
        blocks_.unwatch_for_observer(ram_offset);
    }
    void watch_writes(std::span<const std::uint64_t> ram_offsets) override
    {
        blocks_.watch_for_others(ram_offsets);
    }
    void unwatch_writes(std::uint64_t ram_offset) override { blocks_.unwatch_for_others(ram_offset); }
    [[nodiscard]] bool holds_code(std::uint64_t ram_offset) const override
    {
        return blocks_.watched(ram_offset);
    }
    void code_changed(std::uint64_t ram_offset, std::uint64_t size) override
    {
        blocks_.drop(ram_offset, size);
    }

    void begin_trial() override
    {
        blocks_.apply_remote_writes();
        trial_.begin();
        instructions_before_trial_ = core_.instructions;
        core_.trial = &trial_;
        core_.update_mode();
    }
    Tried try_step() override { return shut_down_ ? Tried::refused : runner_.try_one(); }
    void end_trial() override
    {
        core_.trial = nullptr;
        core_.instructions = instructions_before_trial_;
        trial_.take_back();
        // Accessed and dirty bits are what they were; translations must not say otherwise.
        const auto& writes = trial_.writes();
        const auto table = [](const TrialWrite& write) { return write.page_table; };
        if (std::any_of(writes.begin(), writes.end(), table)) core_.drop_translations(false);
    }
    [[nodiscard]] const std::vector<TrialWrite>& trial_writes() const override
    {
        return trial_.writes();
    }
    [[nodiscard]] const std::vector<std::byte>& trial_before() const override
    {
        return trial_.before();
    }
    [[nodiscard]] bool trial_disturbed() const override { return trial_.disturbed(); }

    Stop execute(std::uint64_t instructions) override
    {
        if (shut_down_) return Stop::exit;
        return noting_shutdown(runner_.run(instructions));
    }
    Stop execute_while(std::uint64_t flags) override
    {
        if (shut_down_) return Stop::exit;
        return noting_shutdown(runner_.run_while(flags));
    }
    Stop execute_briefly(std::uint64_t flags, std::uint64_t instructions) override
    {
        if (shut_down_) return Stop::exit;
        return noting_shutdown(runner_.run_briefly(flags, instructions));
    }
    Stop step() override
    {
        if (shut_down_) return Stop::exit;
        return noting_shutdown(runner_.run_one());
    }
    [[nodiscard]] const Exit& exit() const override { return core_.exit; }
    void complete_read(std::uint64_t value) override { core_.answer_read(value); }
    void request_attention() override { core_.attention.store(true, std::memory_order_seq_cst); }
    void request_interrupt_window(bool wanted) override
    {
        core_.interrupt_window = wanted ? x86::rflags::IF : 0;
        core_.end_block();
    }

    void set_tsc_offset(std::uint64_t offset) override { system_.set_tsc_offset(offset); }
    [[nodiscard]] bool between_instructions() const override
    {
        return !core_.in_device_access() &&
               !(core_.state.events.interrupt_shadow && system_.debugging());
    }
    [[nodiscard]] bool interruptible() const override
    {
        return interrupts_enabled() && !core_.state.events.interrupt_shadow &&
               !core_.in_device_access() && !shut_down_;
    }
    [[nodiscard]] bool nmi_allowed() const override
    {
        return !core_.state.events.nmi_blocked && !core_.state.events.interrupt_shadow &&
               !core_.in_device_access() && !shut_down_;
    }
    [[nodiscard]] bool in_device_access() const override { return core_.in_device_access(); }
    [[nodiscard]] std::uint64_t device_accesses() const override { return core_.device_accesses; }
    [[nodiscard]] bool interrupts_enabled() const override
    {
        return (core_.state.rflags & x86::rflags::IF) != 0;
    }
    void deliver_interrupt(std::uint8_t vector) override
    {
        wake();
        ++core_.interrupts;
        system_.refresh_steal_time();
        inject(vector, InterruptKind::external);
    }
    void deliver_nmi() override
    {
        wake();
        core_.state.events.nmi_pending = false;
        inject(static_cast<std::uint8_t>(Vector::NMI), InterruptKind::nmi);
        core_.state.events.nmi_blocked = true;
    }
    void wake() override
    {
        if (core_.state.events.activity == x86::Activity::halted) {
            core_.state.events.activity = x86::Activity::running;
        }
    }

    void offer_eoi() override { system_.offer_eoi(); }
    [[nodiscard]] bool eoi_taken(EoiOffer offer) override { return system_.eoi_taken(offer); }
    void stops_running() override
    {
        system_.stops_running();
        blocks_.tell_others();
        blocks_.leave();
    }
    void runs_again() override
    {
        blocks_.enter();
        system_.runs_again();
    }

    [[nodiscard]] std::uint64_t instructions() const override { return core_.instructions; }
    [[nodiscard]] std::span<const std::uint64_t> stepped() const override { return core_.stepped; }
    void counters(base::CounterList& list) const override;

private:
    Stop noting_shutdown(Stop stop)
    {
        if (stop == Stop::exit) shut_down_ = std::holds_alternative<ShutdownExit>(core_.exit);
        return stop;
    }
    // A triple fault is reported by the next execute().
    void inject(std::uint8_t vector, InterruptKind kind)
    {
        if (!system_.deliver_interrupt(vector, kind)) shut_down_ = true;
    }

    Core core_;
    BlockCache blocks_;
    System system_;
    ApicPage apic_page_;
    Runner runner_;
    Trial trial_;
    std::uint64_t instructions_before_trial_ = 0;
    bool shut_down_ = false;
};

bool BlockInterpreter::read_system(std::uint64_t linear, std::span<std::byte> to)
{
    if (!x86::canonical(linear) || !x86::canonical(linear + to.size() - 1)) return false;
    const Fault before = core_.fault;
    const auto size = static_cast<unsigned>(to.size());
    const std::byte* from = MemoryAccess::system_pointer(core_, linear, size);
    if (from != nullptr) {
        std::copy_n(from, to.size(), to.begin());
    } else if (core_.failed()) {
        static_cast<void>(core_.pending_flow());
        core_.fault = before;
    }
    return from != nullptr;
}

std::optional<x86::Fault> BlockInterpreter::fetch(std::uint64_t linear, std::uint64_t& ram_offset)
{
    static_assert(no_memory == FetchEntry::no_memory);
    const Fault before = core_.fault;
    std::uint64_t page = 0;
    if (!MemoryAccess::fetch_page(core_, linear, page)) {
        return std::exchange(core_.fault, before);
    }
    ram_offset = page == no_memory ? no_memory : page + (linear & base::page_mask);
    return std::nullopt;
}

void BlockInterpreter::counters(base::CounterList& list) const
{
    list.add("interpreter.instructions", core_.instructions);
    list.add("interpreter.blocks_run", core_.blocks_run);
    list.add("interpreter.blocks_decoded", blocks_.decoded_blocks());
    list.add("interpreter.code_pages_dropped", blocks_.dropped_pages());
    list.add("interpreter.memory_slow_paths", core_.tlb_misses);
    list.add("interpreter.page_walks", core_.page_walks);
    list.add("interpreter.thunk_runs", core_.thunk_runs);
    list.add("interpreter.device_exits", core_.device_exits);
    list.add("interpreter.interrupts", core_.interrupts);
    list.add("hypercalls.kicks", system_.hypercalls.kicks);
    list.add("hypercalls.ipis", system_.hypercalls.ipis);
    list.add("hypercalls.yields", system_.hypercalls.yields);
    for (std::size_t vector = 0; vector < core_.exceptions.size(); ++vector) {
        if (core_.exceptions[vector] == 0) continue;
        list.add("interpreter.exception_" + std::to_string(vector), core_.exceptions[vector]);
    }
}

}  // namespace

std::uint64_t Environment::realtime_ns() noexcept
{
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

base::Result<std::unique_ptr<Interpreter>> Interpreter::create(memory::GuestMemory& memory,
                                                               bus::VmClock& clock,
                                                               const x86::CpuidPolicy& cpuid,
                                                               Environment& environment,
                                                               const Sharing& sharing)
{
    auto thunks = TRY(ThunkCache::create());
    return std::unique_ptr<Interpreter>{std::make_unique<BlockInterpreter>(
        memory, clock, cpuid, environment, std::move(thunks), sharing)};
}

}  // namespace doppel::engine::interpret
