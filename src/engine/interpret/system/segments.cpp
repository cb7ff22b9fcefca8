// Loading of segment registers. SDM volume 3 sections 3.4 and 5.4-5.7, volume 2 MOV, POP, LDS.
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {


std::uint64_t table_address(const Core& core, std::uint64_t base, std::uint64_t offset)
{
    const std::uint64_t linear = base + offset;
    return core.state.long_mode() ? linear : linear & 0xffffffff;
}

Flow load_null(Core& core, unsigned reg, std::uint16_t selector)
{
    if (reg == x86::SS) {
        const unsigned cpl = core.cpl;
        if (!code64(core) || cpl == 3 || x86::selector_rpl(selector) != cpl) {
            return core.raise(Vector::GP);
        }
        set_segment(core, reg, x86::null_segment(selector, cpl));
        return Flow::next;
    }
    set_segment(core, reg, x86::null_segment(selector));
    return Flow::next;
}

Flow check_data_segment(Core& core, std::uint16_t selector, const Segment& segment)
{
    const std::uint32_t error = x86::selector_error(selector);
    if (!segment.code_or_data() || !x86::is_readable(segment)) return core.raise(Vector::GP, error);
    if (!x86::is_conforming(segment) &&
        (x86::selector_rpl(selector) > segment.dpl() || core.cpl > segment.dpl())) {
        return core.raise(Vector::GP, error);
    }
    if (!segment.present()) return core.raise(Vector::NP, error);
    return Flow::next;
}

Flow finish_segment(Core& core, const Op& op, unsigned reg)
{
    if (reg != x86::SS) return finish(core, op);
    core.state.events.interrupt_shadow = true;
    core.system->note_stack_segment_load(core.next_rip(op));
    return finish(core, op);
}

Flow mov_to_segment(Core& core, const Op& op) noexcept
{
    std::uint64_t selector = 0;
    FLOW_TRY(read_rm(core, op, 2, selector));
    FLOW_TRY(load_segment(core, op.extra, static_cast<std::uint16_t>(selector)));
    return finish_segment(core, op, op.extra);
}

Flow mov_from_segment(Core& core, const Op& op) noexcept
{
    const std::uint64_t selector = core.state.segments[op.extra].selector;
    return write_rm(core, op, op.memory ? 2 : op.operand_size, selector);
}

Flow push_segment(Core& core, const Op& op) noexcept
{
    // With a 32-bit operand size the processor writes the low 16 bits only, but moves by 4.
    const unsigned size = op.operand_size;
    if (size == 4) {
        const unsigned width = stack_width(core);
        const std::uint64_t offset = (read_gpr(core, x86::RSP, width) - 4) & size_mask(width);
        std::uint64_t linear = 0;
        FLOW_TRY(done(core, core.linear_address(x86::SS, offset, 4, true, linear)));
        FLOW_TRY(store(core, linear, 2, core.state.segments[op.extra].selector));
        set_stack_pointer(core, offset, width);
        return Flow::next;
    }
    StackCursor stack{core};
    FLOW_TRY(stack.push(core.state.segments[op.extra].selector, size));
    stack.commit();
    return Flow::next;
}

Flow pop_segment(Core& core, const Op& op) noexcept
{
    StackCursor stack{core};
    std::uint64_t selector = 0;
    const unsigned width = stack_width(core);
    FLOW_TRY(stack.pop(selector, op.operand_size));
    FLOW_TRY(load_segment(core, op.extra, static_cast<std::uint16_t>(selector)));
    set_stack_pointer(core, stack.pointer(), width);
    return finish_segment(core, op, op.extra);
}

// LDS, LES, LSS, LFS, LGS: offset first, then the selector.
Flow load_far_pointer(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0, offset = 0, selector = 0;
    FLOW_TRY(done(core, core.operand_address(op, op.operand_size + 2u, false, linear)));
    FLOW_TRY(load(core, linear, op.operand_size, offset));
    FLOW_TRY(load(core, linear + op.operand_size, 2, selector));
    FLOW_TRY(load_segment(core, op.extra, static_cast<std::uint16_t>(selector)));
    write_gpr(core, op.reg, op.operand_size, offset);
    return finish_segment(core, op, op.extra);
}

unsigned segment_of(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES: return x86::ES;
    case ZYDIS_REGISTER_CS: return x86::CS;
    case ZYDIS_REGISTER_SS: return x86::SS;
    case ZYDIS_REGISTER_DS: return x86::DS;
    case ZYDIS_REGISTER_FS: return x86::FS;
    case ZYDIS_REGISTER_GS: return x86::GS;
    default: return segment_none;
    }
}

bool is_segment(const ZydisDecodedOperand& operand)
{
    return operand.type == ZYDIS_OPERAND_TYPE_REGISTER &&
           segment_of(operand.reg.value) != segment_none;
}

}  // namespace

Flow read_descriptor(Core& core, std::uint16_t selector, Vector vector, Descriptor& out)
{
    const auto& state = core.state;
    std::uint64_t base = state.gdtr.base;
    std::uint64_t limit = state.gdtr.limit;
    if (x86::selector_in_ldt(selector)) {
        if (state.ldtr.unusable()) return core.raise(vector, x86::selector_error(selector));
        base = state.ldtr.base;
        limit = state.ldtr.limit;
    }
    const std::uint64_t offset = x86::selector_offset(selector);
    if (offset + 7 > limit) return core.raise(vector, x86::selector_error(selector));
    out.linear = table_address(core, base, offset);
    FLOW_TRY(load_implicit(core, out.linear, 8, out.raw));
    out.segment = x86::decode_segment(selector, out.raw);
    return Flow::next;
}

Flow read_descriptor_high(Core& core, std::uint16_t selector, Vector vector, Descriptor& out,
                          std::uint64_t& high)
{
    const bool local = x86::selector_in_ldt(selector);
    const std::uint64_t limit = local ? core.state.ldtr.limit : core.state.gdtr.limit;
    if (std::uint64_t{x86::selector_offset(selector)} + 15 > limit) {
        return core.raise(vector, x86::selector_error(selector));
    }
    FLOW_TRY(load_implicit(core, out.linear + 8, 8, high));
    if (!x86::high_type_valid(high)) return core.raise(vector, x86::selector_error(selector));
    out.segment = x86::decode_segment16(selector, out.raw, high);
    return Flow::next;
}

Flow set_accessed(Core& core, Descriptor& descriptor)
{
    if ((descriptor.raw & x86::descriptor_accessed) != 0) return Flow::next;
    FLOW_TRY(store_implicit(core, descriptor.linear + 4, 4,
                            (descriptor.raw | x86::descriptor_accessed) >> 32));
    descriptor.raw |= x86::descriptor_accessed;
    descriptor.segment.attributes |= x86::segment_type::ACCESSED;
    return Flow::next;
}

void set_segment(Core& core, unsigned reg, const Segment& segment)
{
    core.state.segments[reg] = segment;
    core.update_mode();
}

void set_real_segment(Core& core, unsigned reg, std::uint16_t selector)
{
    if (core.state.vm86()) {
        core.state.segments[reg] = x86::vm86_segment(selector);
        return;
    }
    // Limit, granularity and size stay: unreal mode.
    Segment& segment = core.state.segments[reg];
    const std::uint32_t access = reg == x86::CS ? x86::segment_attributes::REAL_CODE
                                                : x86::segment_attributes::REAL_DATA;
    segment.selector = selector;
    segment.base = std::uint64_t{selector} << 4;
    segment.attributes = (segment.attributes & 0xf000) | access;
}

Flow load_segment(Core& core, unsigned reg, std::uint16_t selector)
{
    if (!descriptors_in_use(core)) {
        set_real_segment(core, reg, selector);
        core.update_mode();
        return Flow::next;
    }
    if (x86::selector_null(selector)) return load_null(core, reg, selector);
    Descriptor descriptor;
    if (reg == x86::SS) {
        FLOW_TRY(check_stack_segment(core, selector, core.cpl, Vector::GP, descriptor));
    } else {
        FLOW_TRY(read_descriptor(core, selector, Vector::GP, descriptor));
        FLOW_TRY(check_data_segment(core, selector, descriptor.segment));
    }
    FLOW_TRY(set_accessed(core, descriptor));
    set_segment(core, reg, descriptor.segment);
    return Flow::next;
}

Flow check_stack_segment(Core& core, std::uint16_t selector, unsigned cpl, Vector vector,
                         Descriptor& out)
{
    const std::uint32_t error = x86::selector_error(selector);
    if (x86::selector_null(selector)) return core.raise(vector, vector == Vector::GP ? 0 : error);
    FLOW_TRY(read_descriptor(core, selector, vector, out));
    if (x86::selector_rpl(selector) != cpl || !x86::is_writable(out.segment) ||
        out.segment.dpl() != cpl) {
        return core.raise(vector, error);
    }
    if (!out.segment.present()) return core.raise(Vector::SS, error);
    return Flow::next;
}

void drop_inner_segments(Core& core, unsigned new_cpl)
{
    for (const unsigned reg : {x86::ES, x86::DS, x86::FS, x86::GS}) {
        Segment& segment = core.state.segments[reg];
        if (!x86::survives_return(segment, new_cpl)) segment = x86::null_segment(0);
    }
}

Segment code_segment(const Descriptor& descriptor, std::uint16_t selector, unsigned cpl)
{
    Segment segment = descriptor.segment;
    segment.selector = static_cast<std::uint16_t>((selector & ~3u) | cpl);
    return segment;
}

Flow check_target(Core& core, const Segment& cs, std::uint64_t rip)
{
    const bool wide = core.state.long_mode() && cs.l();
    const bool ok = wide ? canonical(rip) : rip <= cs.limit;
    return ok ? Flow::next : core.raise(Vector::GP);
}

bool lower_segments(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    const auto operand = [&](std::size_t i) { return decoded.operands[i]; };
    const std::size_t count = decoded.operands.size();
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (count < 2) return false;
        if (is_segment(operand(0))) {
            op.extra = static_cast<std::uint8_t>(segment_of(operand(0).reg.value));
            op.run = op.extra == x86::CS ? Handler{raise_ud} : Handler{mov_to_segment};
            return true;
        }
        if (is_segment(operand(1))) {
            op.extra = static_cast<std::uint8_t>(segment_of(operand(1).reg.value));
            op.operand_size = static_cast<std::uint8_t>(decoded.instruction.operand_width / 8);
            op.run = mov_from_segment;
            return true;
        }
        return false;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        if (count < 1 || !is_segment(operand(0))) return false;
        op.extra = static_cast<std::uint8_t>(segment_of(operand(0).reg.value));
        if (decoded.code_size == CodeSize::bits64 && op.operand_size != 2) op.operand_size = 8;
        op.run = decoded.instruction.mnemonic == ZYDIS_MNEMONIC_PUSH ? push_segment : pop_segment;
        return true;
    case ZYDIS_MNEMONIC_LDS: op.extra = x86::DS; break;
    case ZYDIS_MNEMONIC_LES: op.extra = x86::ES; break;
    case ZYDIS_MNEMONIC_LSS: op.extra = x86::SS; break;
    case ZYDIS_MNEMONIC_LFS: op.extra = x86::FS; break;
    case ZYDIS_MNEMONIC_LGS: op.extra = x86::GS; break;
    default: return false;
    }
    op.run = load_far_pointer;
    return true;
}

}  // namespace doppel::engine::interpret::privileged
