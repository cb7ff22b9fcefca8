// KVM's paravirtual clock, steal time, end of interrupt and flush requests; see x86/paravirt.h
// and docs/paravirtual.md.
//
// The vCPU itself is the only one that reads these structures, and never while they are being
// written, but the version is counted as guests expect. StealTime::preempted alone is shared
// with the guest's other vCPUs.
#include "x86/paravirt.h"

#include <atomic>
#include <cstddef>

#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret {

namespace {

namespace pv = x86::paravirt;
using base::Gpa;

constexpr std::uint32_t features_leaf = 0x40000001;
constexpr std::uint64_t ns_per_second = 1'000'000'000;
constexpr std::uint64_t steal_period_ns = 1'000'000;

// Nowhere near the end of the address space, so that sums do not wrap around.
bool plausible(const Core& core, std::uint64_t gpa)
{
    return gpa >> core.cpuid.physical_address_bits() == 0;
}

std::uint32_t odd_after(std::uint32_t version) { return (version + 1) | 1; }

// Nothing is written unless all of the structure is memory.
template <typename T>
void publish(memory::GuestMemory& memory, Gpa at, T value)
{
    T old;
    if (!memory.read_value(at, old)) return;
    const Gpa version_at = at + offsetof(T, version);
    value.version = odd_after(old.version);
    if (!memory.write_value(version_at, value.version)) return;
    static_cast<void>(memory.write_value(at, value));
    static_cast<void>(memory.write_value(version_at, value.version + 1));
}

}  // namespace

bool System::offers(std::uint32_t feature) const
{
    return core_.cpuid.has(features_leaf, 0, 'a', static_cast<unsigned>(std::countr_zero(feature)));
}

std::uint64_t* System::paravirt_msr(std::uint32_t index)
{
    if (environment_.has_other_msrs()) return nullptr;
    switch (index) {
    case pv::MSR_KVM_WALL_CLOCK_NEW:
        return offers(pv::feature::CLOCKSOURCE2) ? &core_.state.kvm_wall_clock : nullptr;
    case pv::MSR_KVM_SYSTEM_TIME_NEW:
        return offers(pv::feature::CLOCKSOURCE2) ? &core_.state.kvm_system_time : nullptr;
    case pv::MSR_KVM_STEAL_TIME:
        return offers(pv::feature::STEAL_TIME) ? &core_.state.kvm_steal_time : nullptr;
    case pv::MSR_KVM_PV_EOI_EN:
        return offers(pv::feature::PV_EOI) ? &core_.state.kvm_pv_eoi : nullptr;
    default: return nullptr;
    }
}

bool System::write_paravirt_msr(std::uint32_t index, std::uint64_t value)
{
    if (index == pv::MSR_KVM_STEAL_TIME && (value & pv::steal_time_reserved) != 0) return false;
    if (index == pv::MSR_KVM_PV_EOI_EN && (value & pv::pv_eoi_reserved) != 0) return false;
    *paravirt_msr(index) = value;
    switch (index) {
    case pv::MSR_KVM_WALL_CLOCK_NEW: write_wall_clock(); break;
    case pv::MSR_KVM_SYSTEM_TIME_NEW: refresh_system_time(); break;
    case pv::MSR_KVM_STEAL_TIME:
        if ((value & pv::enabled) != 0) steal_seen_ = environment_.steal_ns();
        steal_refreshed_ns_ = 0;
        // The new structure may hold anything; this vCPU runs.
        stopped_ = true;
        runs_again();
        break;
    default: break;  // PV_EOI_EN: from the next offer on
    }
    return true;
}

void System::write_wall_clock()
{
    const std::uint64_t at = core_.state.kvm_wall_clock;
    if (at == 0 || !plausible(core_, at)) return;
    const std::uint64_t zero = environment_.realtime_ns() - core_.clock.now_ns();
    pv::WallClock clock;
    clock.seconds = static_cast<std::uint32_t>(zero / ns_per_second);
    clock.nanoseconds = static_cast<std::uint32_t>(zero % ns_per_second);
    publish(core_.memory, Gpa{at}, clock);
}

void System::refresh_system_time()
{
    const std::uint64_t at = core_.state.kvm_system_time & ~pv::enabled;
    if ((core_.state.kvm_system_time & pv::enabled) == 0 || !plausible(core_, at)) return;
    const std::uint64_t tsc_hz = core_.clock.tsc_hz();
    if (tsc_hz == 0) return;
    const pv::TimeScale scale = pv::time_scale(tsc_hz);
    pv::VcpuTime time;
    // The VM's counter and its time began together, so that every vCPU says the same.
    time.tsc_timestamp = tsc_offset_;
    time.system_time = 0;
    time.tsc_to_system_mul = scale.multiplier;
    time.tsc_shift = scale.shift;
    time.flags = pv::tsc_stable;
    publish(core_.memory, Gpa{at}, time);
}

void System::refresh_steal_time()
{
    const std::uint64_t at = core_.state.kvm_steal_time & ~(pv::steal_time_reserved | pv::enabled);
    if ((core_.state.kvm_steal_time & pv::enabled) == 0 || !plausible(core_, at)) return;
    const std::uint64_t now = core_.clock.now_ns();
    if (now - steal_refreshed_ns_ < steal_period_ns) return;
    steal_refreshed_ns_ = now;
    const std::uint64_t seen = environment_.steal_ns();
    const std::uint64_t more = seen - steal_seen_;
    steal_seen_ = seen;
    pv::StealTime time;
    if (more == 0 || !core_.memory.read_value(Gpa{at}, time)) return;
    // Not the whole structure: `preempted` is not ours alone.
    const Gpa version_at = Gpa{at} + offsetof(pv::StealTime, version);
    const std::uint32_t version = odd_after(time.version);
    if (!core_.memory.write_value(version_at, version)) return;
    static_cast<void>(core_.memory.write_value(Gpa{at}, time.steal + more));
    static_cast<void>(core_.memory.write_value(version_at, version + 1));
}

// What is written many times a second is written where it is, and as the vCPU's own stores
// are: a write by GuestMemory to a page with code would make the vCPU stop and look, each time.
// The structures are aligned, so that they lie in one slot. nullptr: no memory to be written.
std::byte* System::shared_byte(std::uint64_t at) const
{
    if (!plausible(core_, at)) return nullptr;
    const memory::Slot* const slot = core_.memory.find(Gpa{at});
    return slot == nullptr || slot->read_only ? nullptr : core_.memory.host(Gpa{at});
}

// ---- end of interrupt --------------------------------------------------------------------------

void System::offer_eoi()
{
    const std::uint64_t at = core_.state.kvm_pv_eoi & ~pv::enabled;
    if ((core_.state.kvm_pv_eoi & pv::enabled) == 0) return;
    std::byte* const byte = shared_byte(at);
    if (byte == nullptr) return;
    *byte |= std::byte{pv::pv_eoi_offered};
    core_.code_written(Gpa{at}, 1);
    eoi_offered_at_ = at;
}

bool System::eoi_taken(EoiOffer offer)
{
    if (eoi_offered_at_ == nowhere) return false;
    std::byte* const byte = shared_byte(eoi_offered_at_);
    const bool taken = (*byte & std::byte{pv::pv_eoi_offered}) == std::byte{};
    if (!taken && offer == EoiOffer::keep) return false;
    if (!taken) {
        *byte &= ~std::byte{pv::pv_eoi_offered};
        core_.code_written(Gpa{eoi_offered_at_}, 1);
    }
    eoi_offered_at_ = nowhere;
    return taken;
}

// ---- running or not ----------------------------------------------------------------------------

std::byte* System::preempted_byte(Gpa& at) const
{
    const std::uint64_t base = core_.state.kvm_steal_time & ~(pv::steal_time_reserved | pv::enabled);
    if ((core_.state.kvm_steal_time & pv::enabled) == 0) return nullptr;
    at = Gpa{base} + offsetof(pv::StealTime, preempted);
    return shared_byte(at.value);
}

void System::stops_running()
{
    if (stopped_ || !offers(pv::feature::PV_TLB_FLUSH)) return;
    Gpa at;
    std::byte* const byte = preempted_byte(at);
    if (byte == nullptr) return;
    stopped_ = true;
    std::atomic_ref{*reinterpret_cast<std::uint8_t*>(byte)}.fetch_or(pv::vcpu_preempted);
    core_.code_written(at, 1);
}

void System::runs_again()
{
    if (!stopped_) return;
    stopped_ = false;
    if (!offers(pv::feature::PV_TLB_FLUSH)) return;
    Gpa at;
    std::byte* const byte = preempted_byte(at);
    if (byte == nullptr) return;
    const std::uint8_t was = std::atomic_ref{*reinterpret_cast<std::uint8_t*>(byte)}.exchange(0);
    if (was == 0) return;
    core_.code_written(at, 1);
    if ((was & pv::vcpu_flush_tlb) != 0) core_.flush_tlb(false);
}

}  // namespace doppel::engine::interpret
