#include "x86/interrupt_return.h"

namespace doppel::x86 {

namespace {

// Of a segment that a selector of this privilege may name, and that needs no write to its table.
bool usual(const Segment& segment, unsigned privilege)
{
    return segment.present() && segment.dpl() == privilege &&
           (segment.type() & segment_type::ACCESSED) != 0;
}

}  // namespace

std::optional<std::uint64_t> usual_return_flags(std::uint64_t now, std::uint64_t frame)
{
    using namespace rflags;
    constexpr std::uint64_t unusual = TF | IOPL | NT | VM | AC | VIF | VIP;
    constexpr std::uint64_t taken = STATUS | DF | IF | RF | ID;
    if (((now | frame) & unusual) != 0) return std::nullopt;
    return (now & ~taken) | (frame & taken) | RESERVED1;
}

std::optional<Segment> usual_return_code(std::uint16_t selector, std::uint64_t raw)
{
    const Segment segment = decode_segment(selector, raw);
    if (!is_code(segment) || is_conforming(segment)) return std::nullopt;
    if (!segment.l() || segment.db()) return std::nullopt;
    if (!usual(segment, selector_rpl(selector))) return std::nullopt;
    return segment;
}

std::optional<Segment> usual_return_stack(std::uint16_t selector, std::uint64_t raw, unsigned cpl)
{
    if (selector_rpl(selector) != cpl) return std::nullopt;
    if (selector_null(selector)) {
        if (cpl == 3) return std::nullopt;
        return null_segment(selector, cpl);
    }
    const Segment segment = decode_segment(selector, raw);
    if (!is_writable(segment) || !usual(segment, cpl)) return std::nullopt;
    return segment;
}

}  // namespace doppel::x86
