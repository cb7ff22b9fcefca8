#include "x86/descriptors.h"

namespace doppel::x86 {

namespace {

constexpr std::uint64_t field(std::uint64_t value, unsigned low, unsigned width)
{
    return (value >> low) & ((std::uint64_t{1} << width) - 1);
}

}  // namespace

Segment decode_segment(std::uint16_t selector, std::uint64_t raw)
{
    Segment segment;
    segment.selector = selector;
    segment.base = field(raw, 16, 24) | (field(raw, 56, 8) << 24);
    segment.attributes = static_cast<std::uint32_t>(raw >> 40) & 0xf0ff;
    segment.limit = static_cast<std::uint32_t>(field(raw, 0, 16) | (field(raw, 48, 4) << 16));
    if ((segment.attributes & segment_attributes::G) != 0) {
        segment.limit = (segment.limit << 12) | 0xfff;
    }
    return segment;
}

Segment decode_segment16(std::uint16_t selector, std::uint64_t low, std::uint64_t high)
{
    Segment segment = decode_segment(selector, low);
    segment.base |= high << 32;
    return segment;
}

std::uint64_t encode_segment(const Segment& segment)
{
    const bool pages = (segment.attributes & segment_attributes::G) != 0;
    const std::uint64_t limit = pages ? segment.limit >> 12 : segment.limit & 0xfffff;
    return field(limit, 0, 16) | (field(limit, 16, 4) << 48) | (field(segment.base, 0, 24) << 16) |
           (field(segment.base, 24, 8) << 56) |
           (static_cast<std::uint64_t>(segment.attributes & 0xf0ff) << 40);
}

Segment null_segment(std::uint16_t selector, unsigned dpl)
{
    Segment segment;
    segment.selector = selector;
    segment.attributes = segment_attributes::UNUSABLE | ((dpl & 3) << 5);
    return segment;
}

Segment vm86_segment(std::uint16_t selector)
{
    Segment segment;
    segment.selector = selector;
    segment.base = static_cast<std::uint64_t>(selector) << 4;
    segment.limit = 0xffff;
    segment.attributes = segment_attributes::REAL_DATA | (3u << 5);
    return segment;
}

Gate decode_gate(std::uint64_t raw)
{
    Gate gate;
    gate.type = static_cast<std::uint8_t>(field(raw, 40, 4));
    gate.code_or_data = field(raw, 44, 1) != 0;
    gate.dpl = static_cast<std::uint8_t>(field(raw, 45, 2));
    gate.present = field(raw, 47, 1) != 0;
    gate.selector = static_cast<std::uint16_t>(field(raw, 16, 16));
    gate.offset = field(raw, 0, 16);
    if (gate.wide()) gate.offset |= field(raw, 48, 16) << 16;
    gate.parameter_count = static_cast<std::uint8_t>(field(raw, 32, 5));
    return gate;
}

Gate decode_gate16(std::uint64_t low, std::uint64_t high)
{
    Gate gate = decode_gate(low);
    gate.offset = field(low, 0, 16) | (field(low, 48, 16) << 16) | (high << 32);
    gate.parameter_count = 0;
    gate.ist = static_cast<std::uint8_t>(field(low, 32, 3));
    return gate;
}

std::uint64_t encode_gate(const Gate& gate)
{
    const std::uint64_t word = gate.ist != 0 ? gate.ist & 7u : gate.parameter_count & 0x1fu;
    return field(gate.offset, 0, 16) | (std::uint64_t{gate.selector} << 16) | (word << 32) |
           (std::uint64_t{gate.type & 0xfu} << 40) | (std::uint64_t{gate.code_or_data} << 44) |
           (std::uint64_t{gate.dpl & 3u} << 45) | (std::uint64_t{gate.present} << 47) |
           (field(gate.offset, 16, 16) << 48);
}

}  // namespace doppel::x86
