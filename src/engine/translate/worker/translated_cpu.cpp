// The worker's vCPU: VirtualCpu, executing by translated code.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>

#include "base/mapped_region.h"
#include "engine/translate/dispatch/supervisor.h"
#include "engine/translate/layout.h"
#include "engine/translate/link/user_program.h"
#include "engine/translate/worker/executor.h"
#include "engine/translate/worker/virtual_cpu.h"

namespace doppel::engine::translate {

namespace {

// The memory that supervisor translations work with, at its fixed addresses.
struct SupervisorMemory {
    base::Fd code;
    base::MappedRegion code_alias;

    base::Result<void> map()
    {
        TRY(anonymous(supervisor_context, base::page_size));
        TRY(anonymous(supervisor_targets, target_table_size));
        code = base::Fd{::memfd_create("doppel-code", MFD_CLOEXEC)};
        if (!code.valid() || ::ftruncate(code.get(), supervisor_code_size) != 0) {
            return base::errno_error(base::ErrorKind::host, "Cannot make a code cache", errno);
        }
        TRY(fixed(supervisor_code, supervisor_code_size, PROT_READ | PROT_EXEC, MAP_SHARED, code.get()));
        code_alias = TRY(base::MappedRegion::map_aligned(supervisor_code_size, large_page,
                                                         PROT_READ | PROT_WRITE, MAP_SHARED, code.get()));
        return {};
    }

private:
    static base::Result<void> fixed(std::uint64_t address, std::uint64_t size, int rights, int flags, int fd)
    {
        if (::mmap(std::bit_cast<void*>(address), size, rights, flags | MAP_FIXED_NOREPLACE, fd, 0) == MAP_FAILED) {
            return base::errno_error(base::ErrorKind::host, "Cannot map the translator's memory", errno);
        }
        return {};
    }
    static base::Result<void> anonymous(std::uint64_t address, std::uint64_t size)
    {
        return fixed(address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    }
};

// Address spaces that have processes. Each vCPU has its own, and all of them are the host's to carry.
unsigned spaces(unsigned vcpus)
{
    constexpr unsigned most = 80, least = 16, together = 160;
    return std::clamp(together / vcpus, least, most);
}

class TranslatedCpu final : public VirtualCpu {
public:
    using VirtualCpu::VirtualCpu;

    base::Result<void> initialise() override
    {
        TRY(memory_.map());
        // The interpreter's handlers come first, so that ours pass on to them.
        TRY(VirtualCpu::initialise());
        TRY(prepare_supervisor());
        const base::Fd program = TRY(user_program_file());
        processes_ = TRY(UserProcesses::create({.ram_fd = resources().memory.fd(),
                                                .program_fd = program.get(),
                                                .attention = &attention_,
                                                .place = &resources().mailbox.place,
                                                .vcpus = resources().siblings.any()
                                                             ? &resources().siblings.inside()
                                                             : nullptr,
                                                .devices = &device_load(),
                                                .files = resources().memory.files()}));
        executor_ = std::make_unique<Executor>(Executor::Parts{
            .interpreter = interpreter(),
            .memory = resources().memory,
            .cpuid = resources().cpuid,
            .processes = *processes_,
            .supervisor_code_alias = std::bit_cast<std::uint8_t*>(memory_.code_alias.data()),
            .siblings = resources().siblings,
            .attention = attention_,
            .place = resources().mailbox.place,
            .spaces = spaces(resources().siblings.vcpus()),
            .lock_step = resources().lock_step,
        });
        return {};
    }

protected:
    Stop advance(std::uint64_t instructions) override
    {
        executor_->want_interrupt_window(something_pending());
        executor_->set_tsc_offset(resources().mailbox.tsc_base + guest_tsc_offset_);
        const Stop stop = executor_->run(instructions);
        // Seen: the caller looks at everything that it may stand for.
        if (stop == Stop::attention) attention_.fetch_and(~Executor::called, std::memory_order_seq_cst);
        return stop;
    }
    void state_loaded() override { executor_->forget_all(); }
    void want_interrupt_window(bool wanted) noexcept override
    {
        VirtualCpu::want_interrupt_window(wanted);
        executor_->want_interrupt_window(wanted);
    }
    void want_return() noexcept override
    {
        VirtualCpu::want_return();
        attention_.fetch_or(Executor::called, std::memory_order_seq_cst);
    }
    void export_state() override { executor_->export_state(); }
    [[nodiscard]] std::string failure() const override
    {
        if (executor_->failure().empty()) return {};
        return executor_->failure() + "\nlast exits:\n" + executor_->flight_recorder();
    }
    void take_notes() override { executor_->settle(); }
    void on_wake(ucontext_t& interrupted, Wake why) noexcept override
    {
        attention_.fetch_or(why == Wake::summons ? Executor::summoned : Executor::called,
                            std::memory_order_seq_cst);
        interrupt_supervisor(interrupted);
    }
    void tsc_offset_changed(std::uint64_t offset) noexcept override
    {
        VirtualCpu::tsc_offset_changed(offset);
        guest_tsc_offset_ = offset;
    }
    void counters(base::CounterList& list) const override
    {
        VirtualCpu::counters(list);
        executor_->counters(list);
    }

private:
    SupervisorMemory memory_;
    std::unique_ptr<UserProcesses> processes_;
    std::unique_ptr<Executor> executor_;
    std::atomic<std::uint32_t> attention_{0};
    std::uint64_t guest_tsc_offset_ = 0;
};

}  // namespace

base::Result<std::unique_ptr<CpuInterface>> create_cpu(const WorkerResources& resources)
{
    auto cpu = std::make_unique<TranslatedCpu>(resources);
    TRY(cpu->initialise());
    return std::unique_ptr<CpuInterface>{std::move(cpu)};
}

}  // namespace doppel::engine::translate
