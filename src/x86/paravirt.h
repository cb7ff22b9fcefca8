// KVM's paravirtual interface as guests know it: CPUID leaves, MSRs and the structures that
// a hypervisor keeps in guest memory, and hypercalls. Linux
// Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst.
#pragma once

#include <cstddef>
#include <cstdint>

namespace doppel::x86::paravirt {

// In EAX of leaf 0x40000001.
namespace feature {
inline constexpr std::uint32_t NOP_IO_DELAY = 1u << 1,  // no port 0x80 between port accesses
    CLOCKSOURCE2 = 1u << 3,                             // MSR_KVM_SYSTEM_TIME_NEW, WALL_CLOCK_NEW
    STEAL_TIME = 1u << 5,                               // MSR_KVM_STEAL_TIME
    PV_EOI = 1u << 6,                                   // MSR_KVM_PV_EOI_EN
    PV_UNHALT = 1u << 7,                                // Hypercall::KICK_CPU
    PV_TLB_FLUSH = 1u << 9,                             // StealTime::preempted takes requests
    PV_SEND_IPI = 1u << 11,                             // Hypercall::SEND_IPI
    PV_SCHED_YIELD = 1u << 13,                          // Hypercall::SCHED_YIELD
    CLOCKSOURCE_STABLE_BIT = 1u << 24;                  // PVCLOCK_TSC_STABLE_BIT means what it says
}

inline constexpr std::uint32_t MSR_KVM_WALL_CLOCK_NEW = 0x4b564d00,
                               MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01,
                               MSR_KVM_STEAL_TIME = 0x4b564d03,
                               MSR_KVM_PV_EOI_EN = 0x4b564d04;
inline constexpr std::uint64_t enabled = 1;                   // bit 0 of the latter three
inline constexpr std::uint64_t steal_time_reserved = 0x3e;    // #GP
inline constexpr std::uint64_t pv_eoi_reserved = 0x2;         // #GP: the word is aligned to 4

// VMCALL or VMMCALL at CPL 0. The number is in RAX, arguments in RBX, RCX, RDX, RSI; the answer
// comes in RAX. Outside 64-bit code only the lower halves count.
enum class Hypercall : std::uint64_t {
    KICK_CPU = 5,      // RCX: an APIC ID. Ends that vCPU's HLT, or its next one
    SEND_IPI = 10,     // RBX, RCX: 128 (64) bits, the first for the APIC ID in RDX; RSI: ICR
    SCHED_YIELD = 11,  // RBX: the APIC ID of a vCPU that the caller waits for
};
inline constexpr std::int64_t KVM_EPERM = 1, KVM_EINVAL = 22, KVM_ENOSYS = 1000;  // negated

// A version is odd while the structure is being written.
struct WallClock {
    std::uint32_t version = 0;
    std::uint32_t seconds = 0;      // of the time, since 1970, at which the system time was zero
    std::uint32_t nanoseconds = 0;
};
static_assert(sizeof(WallClock) == 12);

// System time in ns = system_time + ((TSC - tsc_timestamp) << tsc_shift) * mul / 2^32.
struct VcpuTime {
    std::uint32_t version = 0;
    std::uint32_t pad0 = 0;
    std::uint64_t tsc_timestamp = 0;
    std::uint64_t system_time = 0;
    std::uint32_t tsc_to_system_mul = 0;
    std::int8_t tsc_shift = 0;
    std::uint8_t flags = 0;
    std::uint16_t pad1 = 0;
};
static_assert(sizeof(VcpuTime) == 32);
inline constexpr std::uint8_t tsc_stable = 1;  // in flags

struct StealTime {
    std::uint64_t steal = 0;  // ns for which the vCPU would have run, but did not
    std::uint32_t version = 0;
    std::uint32_t flags = 0;
    std::uint8_t preempted = 0;  // see below; shared with the guest's other vCPUs, so atomic
    std::uint8_t pad[3] = {};
    std::uint32_t rest[11] = {};
};
static_assert(sizeof(StealTime) == 64 && offsetof(StealTime, preempted) == 16);

// StealTime::preempted. The hypervisor sets the first when the vCPU stops running. Another vCPU
// that wants its translations flushed may then add the second, by compare and exchange, instead
// of sending an interrupt; before the vCPU runs again the byte is exchanged for zero and the
// flush is done.
inline constexpr std::uint8_t vcpu_preempted = 1, vcpu_flush_tlb = 2;

// In the guest's word of MSR_KVM_PV_EOI_EN: the EOI of the interrupt in service need not be
// written; the guest clears the bit instead, with one instruction. Only the vCPU itself and the
// hypervisor while the vCPU does not run touch it.
inline constexpr std::uint32_t pv_eoi_offered = 1;

// The factors of VcpuTime for a frequency that is not zero.
struct TimeScale {
    std::uint32_t multiplier = 0;
    std::int8_t shift = 0;
};
constexpr TimeScale time_scale(std::uint64_t tsc_hz)
{
    constexpr std::uint64_t ns_per_second = 1'000'000'000;
    TimeScale scale;
    // A ticks-per-second in (ns_per_second, 2 * ns_per_second] leaves the multiplier 32 bits.
    while (tsc_hz > 2 * ns_per_second) {
        tsc_hz >>= 1;
        --scale.shift;
    }
    while (tsc_hz <= ns_per_second) {
        tsc_hz <<= 1;
        ++scale.shift;
    }
    scale.multiplier = static_cast<std::uint32_t>((ns_per_second << 32) / tsc_hz);
    return scale;
}

}  // namespace doppel::x86::paravirt
