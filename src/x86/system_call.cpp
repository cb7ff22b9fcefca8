#include "x86/system_call.h"

namespace doppel::x86 {

namespace {

constexpr std::uint32_t code_type = 0xb, data_type = 0x3;

Segment flat(std::uint64_t selector, unsigned dpl, std::uint32_t type_and_size)
{
    Segment segment;
    segment.selector = static_cast<std::uint16_t>(selector);
    segment.limit = 0xffffffff;
    segment.attributes = type_and_size | segment_attributes::P | segment_attributes::S |
                         segment_attributes::G | (dpl << 5);
    return segment;
}

}  // namespace

void load_flat_segments(CpuState& state, std::uint64_t cs, std::uint64_t ss, unsigned cpl,
                        bool wide)
{
    const std::uint32_t size = wide ? segment_attributes::L : segment_attributes::DB;
    state.segments[CS] = flat(cs, cpl, code_type | size);
    state.segments[SS] = flat(ss, cpl, data_type | segment_attributes::DB);
}

void load_syscall_segments(CpuState& state)
{
    constexpr bool wide = true;
    const std::uint64_t cs = (state.star >> 32) & 0xfffc;
    load_flat_segments(state, cs, cs + 8, 0, wide);
}

void load_sysret_segments(CpuState& state, bool wide)
{
    const std::uint64_t base = (state.star >> 48) & 0xffff;
    load_flat_segments(state, (base + (wide ? 16 : 0)) | 3, (base + 8) | 3, 3, wide);
}

}  // namespace doppel::x86
