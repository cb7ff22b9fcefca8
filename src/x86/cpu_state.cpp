#include "x86/cpu_state.h"

namespace doppel::x86 {

namespace {

Segment real_segment(std::uint16_t selector, std::uint64_t base, std::uint32_t attributes)
{
    Segment segment;
    segment.selector = selector;
    segment.base = base;
    segment.limit = 0xffff;
    segment.attributes = attributes;
    return segment;
}

}  // namespace

CpuState reset_state(bool bootstrap)
{
    CpuState state;
    state.gpr[RDX] = 0x00000600;
    state.rip = 0xfff0;
    for (auto& segment : state.segments) {
        segment = real_segment(0, 0, segment_attributes::REAL_DATA);
    }
    state.segments[CS] = real_segment(0xf000, 0xffff0000, segment_attributes::REAL_CODE);
    state.ldtr = real_segment(0, 0, segment_attributes::LDT);
    state.tr = real_segment(0, 0, segment_attributes::TSS32_BUSY);
    state.gdtr.limit = 0xffff;
    state.idtr.limit = 0xffff;
    state.cr0 = cr0::ET | cr0::NW | cr0::CD;
    state.apic_base = 0xfee00000 | (1u << 11) | (bootstrap ? 1u << 8 : 0u);
    state.events.activity = bootstrap ? Activity::running : Activity::wait_for_sipi;
    // x87 FCW and MXCSR reset values; XSTATE_BV marks both components as present.
    state.xsave.bytes[0] = 0x7f;
    state.xsave.bytes[1] = 0x03;
    state.xsave.bytes[24] = 0x80;
    state.xsave.bytes[25] = 0x1f;
    state.xsave.bytes[512] = 0x03;
    return state;
}

CpuState init_state(const CpuState& before)
{
    const bool bootstrap = (before.apic_base & (1u << 8)) != 0;
    const CpuState reset = reset_state(bootstrap);
    CpuState state = before;
    state.gpr = reset.gpr;
    state.rip = reset.rip;
    state.rflags = reset.rflags;
    state.segments = reset.segments;
    state.ldtr = reset.ldtr;
    state.tr = reset.tr;
    state.gdtr = reset.gdtr;
    state.idtr = reset.idtr;
    state.cr0 = cr0::ET | (before.cr0 & (cr0::CD | cr0::NW));
    state.cr2 = state.cr3 = state.cr4 = 0;
    state.dr = reset.dr;
    state.dr6 = reset.dr6;
    state.dr7 = reset.dr7;
    state.efer = 0;
    state.kvm_system_time = state.kvm_wall_clock = state.kvm_steal_time = state.kvm_pv_eoi = 0;
    state.events = reset.events;
    return state;
}

void start_up(CpuState& state, std::uint8_t vector)
{
    state.segments[CS].selector = static_cast<std::uint16_t>(vector << 8);
    state.segments[CS].base = std::uint64_t{vector} << 12;
    state.rip = 0;
    state.events.activity = Activity::running;
}

}  // namespace doppel::x86
