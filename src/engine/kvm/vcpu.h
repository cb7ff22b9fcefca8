// A vCPU in KVM, with the interpreter behind it.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/mapped_region.h"
#include "engine/engine.h"
#include "engine/kvm/accesses.h"
#include "engine/kvm/api.h"
#include "engine/kvm/fallback.h"
#include "engine/kvm/vcpu_state.h"

namespace doppel::engine::kvm {

struct VcpuConfig {
    int vm_fd = -1;
    unsigned run_size = 0;
    unsigned index = 0;
    memory::GuestMemory& memory;
    bus::VmClock& clock;
    const x86::CpuidPolicy& cpuid;             // filtered
    const x86::CpuidPolicy& completion_cpuid;  // what the interpreter goes by
};

class KvmVcpu final : public Vcpu {
public:
    static base::Result<std::unique_ptr<KvmVcpu>> create(const VcpuConfig& config);

    [[nodiscard]] Exit run() noexcept override;
    void complete_read(std::uint64_t value) noexcept override;
    void kick() noexcept override;
    void wait() noexcept override;
    [[nodiscard]] x86::CpuState state() noexcept override;
    void set_state(const x86::CpuState& state) noexcept override;
    // KVM does not count instructions.
    void set_budget(std::uint64_t) noexcept override {}
    [[nodiscard]] std::uint64_t instructions() const noexcept override { return 0; }
    void counters(base::CounterList& list) const override;

    // Local APIC, KVM's own MSRs and CpuState as at power-on.
    void reset() noexcept;

private:
    KvmVcpu(const VcpuConfig& config, base::Fd fd, base::MappedRegion region);

    kvm_run& shared() { return *run_; }
    void set_immediate_exit(bool on) noexcept;
    void bind_thread() noexcept;
    std::optional<Exit> enter() noexcept;
    std::optional<Exit> handle_exit() noexcept;
    std::optional<Exit> internal_error() noexcept;
    std::optional<Exit> interpret() noexcept;
    ErrorExit error(std::string what) noexcept;
    // Has KVM finish the instruction whose I/O was the last exit.
    void settle() noexcept;

    struct Counts {
        std::uint64_t io = 0, mmio = 0, interrupted = 0, internal_errors = 0, kicks = 0, other = 0;
    };

    unsigned index_;
    base::Fd fd_;
    base::MappedRegion region_;
    kvm_run* run_;
    memory::GuestMemory& memory_;
    VcpuState registers_;
    std::unique_ptr<Fallback> fallback_;
    VcpuSnapshot snapshot_;
    PendingAccesses accesses_;
    bool unfinished_ = false;  // KVM must be entered before state is whole
    bool exit_waiting_ = false;  // settle() found another exit
    bool shut_down_ = false;
    std::string broken_;  // a state call failed: told by the next run()
    kvm_lapic_state initial_lapic_{};
    std::atomic<bool> kicked_{false};
    std::atomic<int> thread_{0};
    Counts counts_;
};

}  // namespace doppel::engine::kvm
