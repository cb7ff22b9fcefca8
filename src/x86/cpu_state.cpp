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

}  // namespace doppel::x86
