// The architectural state of one vCPU, shared by all engines, so that a VM can change
// engine at any instruction boundary. Plain data: copy it, compare it, save it.
#pragma once

#include <array>
#include <cstdint>

#include "x86/registers.h"

namespace doppel::x86 {

// Segment attributes in the layout of VMX access rights (SDM volume 3 section 25.4.1):
// bits 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G, 16 unusable.
struct Segment {
    std::uint16_t selector = 0;
    std::uint16_t reserved = 0;
    std::uint32_t attributes = 0;
    std::uint32_t limit = 0;  // in bytes, already scaled by G
    std::uint32_t reserved2 = 0;
    std::uint64_t base = 0;

    bool operator==(const Segment&) const = default;
    [[nodiscard]] unsigned type() const { return attributes & 0xf; }
    [[nodiscard]] bool code_or_data() const { return (attributes & (1u << 4)) != 0; }
    [[nodiscard]] unsigned dpl() const { return (attributes >> 5) & 3; }
    [[nodiscard]] bool present() const { return (attributes & (1u << 7)) != 0; }
    [[nodiscard]] bool l() const { return (attributes & (1u << 13)) != 0; }
    [[nodiscard]] bool db() const { return (attributes & (1u << 14)) != 0; }
    [[nodiscard]] bool unusable() const { return (attributes & (1u << 16)) != 0; }
};

namespace segment_attributes {
inline constexpr std::uint32_t S = 1u << 4, P = 1u << 7, L = 1u << 13, DB = 1u << 14, G = 1u << 15,
    UNUSABLE = 1u << 16;
inline constexpr std::uint32_t REAL_CODE = 0x9b, REAL_DATA = 0x93, LDT = 0x82, TSS16_BUSY = 0x83,
    TSS32_BUSY = 0x8b;
}  // namespace segment_attributes

struct TableRegister {
    std::uint64_t base = 0;
    std::uint32_t limit = 0;
    std::uint32_t reserved = 0;
    bool operator==(const TableRegister&) const = default;
};

// XSAVE area, standard format, of the components in xcr0::SUPPORTED (SDM volume 1
// section 13.4). Legacy region 0-511, header 512-575, then components at the fixed
// offsets that all processors with AVX-512 use: AVX 576, opmask 1088, ZMM_Hi256 1152,
// Hi16_ZMM 1664. The header's XSTATE_BV is kept exact; XCOMP_BV is zero.
struct alignas(64) XsaveArea {
    std::array<std::uint8_t, 2688> bytes{};
    bool operator==(const XsaveArea&) const = default;
};
inline constexpr unsigned xsave_offset_avx = 576, xsave_offset_opmask = 1088,
    xsave_offset_zmm_hi256 = 1152, xsave_offset_hi16_zmm = 1664;

enum class Activity : std::uint8_t { running, halted, wait_for_sipi, shutdown };

// Things that are neither registers nor memory, yet decide what happens next.
struct EventState {
    Activity activity = Activity::running;
    bool interrupt_shadow = false;  // after STI, MOV SS, POP SS: one instruction
    bool nmi_pending = false;
    bool nmi_blocked = false;  // until IRET
    bool unhalted = false;     // the next HLT ends at once: paravirt::Hypercall::KICK_CPU
    bool operator==(const EventState&) const = default;
};

struct MtrrState {
    std::array<std::uint64_t, 16> variable{};  // PHYSBASE0, PHYSMASK0, ...
    std::array<std::uint64_t, 11> fixed{};     // 64K, 16K x2, 4K x8
    std::uint64_t def_type = 0;
    bool operator==(const MtrrState&) const = default;
};

struct CpuState {
    std::array<std::uint64_t, 16> gpr{};
    std::uint64_t rip = 0;
    std::uint64_t rflags = rflags::RESERVED1;
    std::array<Segment, 6> segments{};  // indexed by SegmentRegister
    Segment ldtr;
    Segment tr;
    TableRegister gdtr;
    TableRegister idtr;
    std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0;
    std::uint64_t xcr0 = xcr0::X87;
    std::array<std::uint64_t, 4> dr{};
    std::uint64_t dr6 = dr6::FIXED;
    std::uint64_t dr7 = dr7::FIXED;
    // MSRs
    std::uint64_t efer = 0, star = 0, lstar = 0, cstar = 0, fmask = 0, kernel_gs_base = 0;
    std::uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
    std::uint64_t pat = 0x0007040600070406, apic_base = 0, tsc_aux = 0, misc_enable = 1;
    std::uint64_t spec_ctrl = 0, tsc_deadline = 0, tsc_adjust = 0, xss = 0;
    std::uint64_t tsc = 0;  // value at the moment of state()/set_state()
    // MSR_KVM_SYSTEM_TIME_NEW, WALL_CLOCK_NEW, STEAL_TIME, PV_EOI_EN; see x86/paravirt.h. Of
    // engines that serve them themselves.
    std::uint64_t kvm_system_time = 0, kvm_wall_clock = 0, kvm_steal_time = 0, kvm_pv_eoi = 0;
    MtrrState mtrr;
    EventState events;
    XsaveArea xsave;

    bool operator==(const CpuState&) const = default;

    // Privilege level: SS.DPL, as the SDM defines it.
    [[nodiscard]] unsigned cpl() const { return segments[SS].dpl(); }
    [[nodiscard]] bool long_mode() const { return (efer & efer::LMA) != 0; }
    [[nodiscard]] bool code64() const { return long_mode() && segments[CS].l(); }
    [[nodiscard]] bool protected_mode() const { return (cr0 & cr0::PE) != 0; }
    [[nodiscard]] bool vm86() const { return (rflags & rflags::VM) != 0; }
};

// State after power-up or RESET (SDM volume 3 table 10-1): real mode at F000:FFF0.
// `bootstrap` sets the BSP bit of IA32_APIC_BASE; others wait for SIPI.
CpuState reset_state(bool bootstrap);
// After INIT (the same table): vector registers, MSRs and caches stay, except EFER and what KVM's
// paravirtual MSRs asked for, as under KVM. Then the bootstrap processor runs from F000:FFF0,
// others wait for SIPI.
CpuState init_state(const CpuState& before);
// SIPI (SDM volume 3 section 10.4.3): real mode at vector << 12.
void start_up(CpuState& state, std::uint8_t vector);

}  // namespace doppel::x86
