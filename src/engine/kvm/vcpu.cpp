#include "engine/kvm/vcpu.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>

#include "engine/kvm/cpuid.h"

namespace doppel::engine::kvm {

namespace {

// Ends a KVM_RUN under way. Without SA_RESTART, and with a handler that does nothing.
int kick_signal() { return SIGRTMIN + 1; }

void install_kick_handler()
{
    static const bool installed = [] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        sigemptyset(&action.sa_mask);
        sigaction(kick_signal(), &action, nullptr);
        return true;
    }();
    static_cast<void>(installed);
}

// KVM's paravirtual MSRs that hold guest addresses: off after a reset.
constexpr std::array<std::uint32_t, 7> kvm_msrs{0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03,
                                                0x4b564d04, 0x11,       0x12};

}  // namespace

KvmVcpu::KvmVcpu(const VcpuConfig& config, base::Fd fd, base::MappedRegion region)
    : index_(config.index), fd_(std::move(fd)), region_(std::move(region)),
      run_(reinterpret_cast<kvm_run*>(region_.data())), memory_(config.memory),
      registers_(fd_.get())
{
}

base::Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(const VcpuConfig& config)
{
    install_kick_handler();
    base::Fd fd{TRY(checked("KVM_CREATE_VCPU", config.vm_fd, KVM_CREATE_VCPU, config.index))};
    const int raw = fd.get();
    auto region = TRY(
        base::MappedRegion::map(config.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, raw));
    CpuidList cpuid = to_kvm(config.cpuid, config.index);
    TRY(checked("KVM_SET_CPUID2", raw, request::SET_CPUID2, &cpuid));
    std::unique_ptr<KvmVcpu> vcpu{new KvmVcpu{config, std::move(fd), std::move(region)}};
    TRY(checked("KVM_GET_LAPIC", raw, KVM_GET_LAPIC, &vcpu->initial_lapic_));
    TRY(vcpu->registers_.create());
    vcpu->fallback_ = TRY(Fallback::create(config.memory, config.clock, config.completion_cpuid,
                                           vcpu->registers_, config.index));
    vcpu->set_state(x86::reset_state(config.index == 0));
    if (!vcpu->broken_.empty()) return base::host_error(vcpu->broken_);
    return vcpu;
}

// ---- kicks -----------------------------------------------------------------------------------

void KvmVcpu::set_immediate_exit(bool on) noexcept
{
    std::atomic_ref<std::uint8_t>{run_->immediate_exit}.store(on, std::memory_order_seq_cst);
}

void KvmVcpu::bind_thread() noexcept
{
    const auto id = static_cast<int>(::syscall(SYS_gettid));
    if (thread_.load(std::memory_order_relaxed) == id) return;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
    thread_.store(id, std::memory_order_seq_cst);
}

// The flag comes first: run() clears immediate_exit before it looks at kicked_, so that a kick
// between the two is seen either there or by KVM_RUN.
void KvmVcpu::kick() noexcept
{
    kicked_.store(true, std::memory_order_seq_cst);
    set_immediate_exit(true);
    fallback_->attention();
    const int thread = thread_.load(std::memory_order_seq_cst);
    if (thread != 0) ::syscall(SYS_tgkill, ::getpid(), thread, kick_signal());
}

// KVM halts inside KVM_RUN; only an idle loop of the caller comes here.
void KvmVcpu::wait() noexcept
{
    bind_thread();
    if (kicked_.load(std::memory_order_seq_cst)) return;
    const timespec millisecond{0, 1'000'000};
    ::nanosleep(&millisecond, nullptr);
}

// ---- run loop --------------------------------------------------------------------------------

Exit KvmVcpu::run() noexcept
{
    bind_thread();
    for (;;) {
        set_immediate_exit(false);
        if (kicked_.exchange(false, std::memory_order_seq_cst)) {
            ++counts_.kicks;
            return KickExit{};
        }
        if (!broken_.empty()) return ErrorExit{broken_};
        if (shut_down_) return ShutdownExit{"triple fault"};
        if (auto exit = fallback_->active() ? interpret() : enter()) return std::move(*exit);
    }
}

std::optional<Exit> KvmVcpu::enter() noexcept
{
    if (auto item = accesses_.next()) return item;
    if (!exit_waiting_) {
        unfinished_ = false;
        if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
            if (errno != EINTR && errno != EAGAIN) {
                return error(base::errno_error(base::ErrorKind::host, "KVM_RUN", errno).text());
            }
            ++counts_.interrupted;
            return std::nullopt;
        }
    }
    exit_waiting_ = false;
    return handle_exit();
}

std::optional<Exit> KvmVcpu::handle_exit() noexcept
{
    kvm_run& run = shared();
    switch (run.exit_reason) {
    case KVM_EXIT_IO: {
        ++counts_.io;
        unfinished_ = true;
        const std::size_t bytes = std::size_t{run.io.size} * run.io.count;
        if (run.io.data_offset + bytes > region_.size()) return error("KVM_EXIT_IO out of bounds");
        accesses_.start_io(run.io.port, run.io.size, run.io.direction == KVM_EXIT_IO_OUT,
                           region_.bytes().subspan(run.io.data_offset, bytes));
        return accesses_.next();
    }
    case KVM_EXIT_MMIO: {
        ++counts_.mmio;
        unfinished_ = true;
        const base::Gpa gpa{run.mmio.phys_addr};
        const bool write = run.mmio.is_write != 0;
        if (write && memory_.find(gpa) != nullptr) return std::nullopt;  // ROM
        const std::size_t bytes = std::min<std::size_t>(run.mmio.len, sizeof run.mmio.data);
        accesses_.start_mmio(gpa, write, std::as_writable_bytes(std::span{run.mmio.data}).first(bytes));
        return accesses_.next();
    }
    case KVM_EXIT_HLT:
        return HaltExit{};
    case KVM_EXIT_SHUTDOWN:
        shut_down_ = true;
        return std::nullopt;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        ++counts_.interrupted;
        return std::nullopt;
    case KVM_EXIT_SYSTEM_EVENT:
        return ShutdownExit{fmt::format("KVM system event {}", run.system_event.type)};
    case KVM_EXIT_FAIL_ENTRY:
        return error(fmt::format("KVM could not enter the guest: hardware reason {:#x}",
                                 run.fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTERNAL_ERROR:
        return internal_error();
    default:
        ++counts_.other;
        return error(fmt::format("KVM stopped with exit reason {}", run.exit_reason));
    }
}

ErrorExit KvmVcpu::error(std::string what) noexcept
{
    broken_ = std::move(what);
    return ErrorExit{broken_};
}

// ---- the interpreter ---------------------------------------------------------------------------

std::optional<Exit> KvmVcpu::internal_error() noexcept
{
    ++counts_.internal_errors;
    const std::uint32_t suberror = shared().internal.suberror;
    if (suberror != KVM_INTERNAL_ERROR_EMULATION) {
        return error(fmt::format("KVM internal error, suberror {}", suberror));
    }
    if (!registers_.load(snapshot_)) return error(registers_.problem());
    // KVM may have queued #UD along with the stop; it is the interpreter that decides.
    fallback_->begin(snapshot_);
    return interpret();
}

std::optional<Exit> KvmVcpu::interpret() noexcept
{
    switch (fallback_->run()) {
    case Fallback::Outcome::kick:
        return std::nullopt;
    case Fallback::Outcome::exit:
        return fallback_->exit();
    case Fallback::Outcome::back:
        if (!fallback_->leave()) return error(registers_.problem());
        return std::nullopt;
    case Fallback::Outcome::stuck:
        break;
    }
    return error(fmt::format("Neither KVM nor the interpreter can run the instruction at {:#x}",
                             fallback_->state().rip));
}

void KvmVcpu::complete_read(std::uint64_t value) noexcept
{
    if (fallback_->active()) {
        fallback_->complete_read(value);
    } else {
        accesses_.complete_read(value);
    }
}

// ---- state -----------------------------------------------------------------------------------

void KvmVcpu::settle() noexcept
{
    if (!unfinished_ || exit_waiting_) return;
    unfinished_ = false;
    set_immediate_exit(true);
    if (::ioctl(fd_.get(), KVM_RUN, 0) == 0) exit_waiting_ = true;
    set_immediate_exit(kicked_.load(std::memory_order_seq_cst));
}

x86::CpuState KvmVcpu::state() noexcept
{
    if (fallback_->active()) return fallback_->state();
    settle();
    if (!registers_.load(snapshot_)) broken_ = registers_.problem();
    if (shut_down_) snapshot_.state.events.activity = x86::Activity::shutdown;
    return snapshot_.state;
}

void KvmVcpu::set_state(const x86::CpuState& state) noexcept
{
    settle();
    accesses_.clear();
    exit_waiting_ = false;
    fallback_->abandon();
    shut_down_ = state.events.activity == x86::Activity::shutdown;
    broken_.clear();
    if (!registers_.store(state)) broken_ = registers_.problem();
}

void KvmVcpu::reset() noexcept
{
    settle();
    for (const std::uint32_t index : kvm_msrs) static_cast<void>(registers_.set_msr(index, 0));
    const x86::CpuState start = x86::reset_state(index_ == 0);
    // The local APIC's mode is IA32_APIC_BASE's, so that comes first.
    set_state(start);
    if (call(fd_.get(), KVM_SET_LAPIC, &initial_lapic_) < 0) {
        broken_ = base::errno_error(base::ErrorKind::host, "KVM_SET_LAPIC", errno).text();
    }
}

void KvmVcpu::counters(base::CounterList& list) const
{
    list.add("exits.io", counts_.io);
    list.add("exits.mmio", counts_.mmio);
    list.add("exits.interrupted", counts_.interrupted);
    list.add("exits.internal_error", counts_.internal_errors);
    list.add("exits.kicks", counts_.kicks);
    list.add("exits.other", counts_.other);
    fallback_->counters(list);
}

}  // namespace doppel::engine::kvm
