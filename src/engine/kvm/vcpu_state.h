// CpuState to and from KVM's structures.
//
// What KVM does not store (an MSR that its CPUID lacks, an XCR0 that it refuses) is kept in
// `shadow`, so that state() gives back what set_state() was given.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "engine/kvm/api.h"
#include "x86/cpu_state.h"

namespace doppel::engine::kvm {

// Pure conversions.
kvm_segment to_kvm(const x86::Segment& segment);
x86::Segment from_kvm(const kvm_segment& segment);

// One vCPU's state as it lies in KVM: what the last load() saw, and what is not CpuState.
struct VcpuSnapshot {
    kvm_regs regs{};
    kvm_sregs sregs{};
    kvm_vcpu_events events{};
    x86::CpuState state;
};

class VcpuState {
public:
    explicit VcpuState(int vcpu_fd) : fd_(vcpu_fd) {}

    // Asks KVM which MSRs it stores. After KVM_SET_CPUID2.
    base::Result<void> create();

    // Reads everything. False: an ioctl failed, problem() says which.
    [[nodiscard]] bool load(VcpuSnapshot& to) noexcept;

    // Writes everything; pending and injected events other than CpuState's are dropped.
    [[nodiscard]] bool store(const x86::CpuState& state) noexcept;
    // Writes what differs from `before` (which load() gave and nothing changed since), and
    // has KVM drop its translations: page tables may have changed. No event is pending after.
    // cr8: the task priority.
    [[nodiscard]] bool store_changes(const VcpuSnapshot& before, const x86::CpuState& state,
                                     std::uint64_t cr8) noexcept;

    [[nodiscard]] bool set_msr(std::uint32_t index, std::uint64_t value) noexcept;
    [[nodiscard]] bool get_msr(std::uint32_t index, std::uint64_t& value) noexcept;
    [[nodiscard]] const std::string& problem() const { return problem_; }

private:
    bool fail(const char* what) noexcept;
    bool store_msrs(const x86::CpuState& state, const x86::CpuState* before) noexcept;
    bool store_xsave(const x86::CpuState& state) noexcept;
    bool store_events(const x86::CpuState& state) noexcept;
    bool store_activity(const x86::EventState& events) noexcept;
    bool store_debug(const x86::CpuState& state) noexcept;
    void store_xcr0(std::uint64_t value) noexcept;

    int fd_;
    std::vector<std::size_t> msrs_;  // indices into the table of MSRs
    bool xcrs_ = true;
    x86::CpuState shadow_;
    std::string problem_;
};

}  // namespace doppel::engine::kvm
