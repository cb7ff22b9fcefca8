// Descriptor-table registers and selector inspection. SDM volume 2 LGDT, SGDT, LLDT, LTR, LAR,
// LSL, VERR, ARPL; volume 3 sections 2.4 and 5.10.
#include <cstring>

#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {

enum Table : std::uint8_t { gdt, idt };

Flow refuse_umip(Core& core)
{
    const bool refused = (core.state.cr4 & cr4::UMIP) != 0 && core.cpl != 0;
    return refused ? core.raise(Vector::GP) : Flow::next;
}

// ---- GDTR and IDTR ------------------------------------------------------------------------------

Flow load_table(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    const unsigned base_size = code64(core) ? 8 : 4;
    std::array<std::byte, 10> bytes{};
    std::uint64_t linear = 0;
    FLOW_TRY(done(core, core.operand_address(op, base_size + 2, false, linear)));
    FLOW_TRY(done(core, core.load_bytes(linear, std::span{bytes}.first(base_size + 2))));
    std::uint16_t limit = 0;
    std::uint64_t base = 0;
    std::memcpy(&limit, bytes.data(), sizeof limit);
    std::memcpy(&base, bytes.data() + 2, base_size);
    if (base_size == 4 && op.operand_size == 2) base &= 0xffffff;
    if (!canonical(base)) return core.raise(Vector::GP);
    auto& target = op.extra == gdt ? core.state.gdtr : core.state.idtr;
    target.base = base;
    target.limit = limit;
    return Flow::next;
}

Flow store_table(Core& core, const Op& op) noexcept
{
    FLOW_TRY(refuse_umip(core));
    const unsigned base_size = code64(core) ? 8 : 4;
    const auto& from = op.extra == gdt ? core.state.gdtr : core.state.idtr;
    std::array<std::byte, 10> bytes{};
    const auto limit = static_cast<std::uint16_t>(from.limit);
    std::memcpy(bytes.data(), &limit, sizeof limit);
    std::memcpy(bytes.data() + 2, &from.base, base_size);
    std::uint64_t linear = 0;
    FLOW_TRY(done(core, core.operand_address(op, base_size + 2, true, linear)));
    return done(core, core.store_bytes(linear, std::span{bytes}.first(base_size + 2)));
}

// ---- LDTR and TR ----------------------------------------------------------------------------------

// What LLDT and LTR have in common: mode, privilege, a selector into the GDT.
Flow system_selector(Core& core, const Op& op, std::uint16_t& selector)
{
    if (!descriptors_in_use(core)) return core.raise(Vector::UD);
    FLOW_TRY(require_cpl0(core));
    std::uint64_t value = 0;
    FLOW_TRY(read_rm(core, op, 2, value));
    selector = static_cast<std::uint16_t>(value);
    if (!x86::selector_null(selector) && x86::selector_in_ldt(selector)) {
        return core.raise(Vector::GP, x86::selector_error(selector));
    }
    return Flow::next;
}

// 16 bytes and a canonical base in IA-32e mode.
Flow widen(Core& core, std::uint16_t selector, Descriptor& descriptor)
{
    if (!core.state.long_mode()) return Flow::next;
    std::uint64_t high = 0;
    FLOW_TRY(read_descriptor_high(core, selector, Vector::GP, descriptor, high));
    if (canonical(descriptor.segment.base)) return Flow::next;
    return core.raise(Vector::GP, x86::selector_error(selector));
}

Flow lldt(Core& core, const Op& op) noexcept
{
    std::uint16_t selector = 0;
    FLOW_TRY(system_selector(core, op, selector));
    if (x86::selector_null(selector)) {
        core.state.ldtr = x86::null_segment(selector);
        return Flow::next;
    }
    Descriptor ldt;
    FLOW_TRY(read_descriptor(core, selector, Vector::GP, ldt));
    const std::uint32_t error = x86::selector_error(selector);
    if (!x86::is_system(ldt.segment, SystemType::LDT)) return core.raise(Vector::GP, error);
    if (!ldt.segment.present()) return core.raise(Vector::NP, error);
    FLOW_TRY(widen(core, selector, ldt));
    core.state.ldtr = ldt.segment;
    return Flow::next;
}

Flow ltr(Core& core, const Op& op) noexcept
{
    std::uint16_t selector = 0;
    FLOW_TRY(system_selector(core, op, selector));
    if (x86::selector_null(selector)) return core.raise(Vector::GP);
    Descriptor tss;
    FLOW_TRY(read_descriptor(core, selector, Vector::GP, tss));
    const std::uint32_t error = x86::selector_error(selector);
    const bool narrow = x86::is_system(tss.segment, SystemType::TSS16_AVAILABLE);
    const bool wide = x86::is_system(tss.segment, SystemType::TSS32_AVAILABLE);
    if (!wide && (core.state.long_mode() || !narrow)) return core.raise(Vector::GP, error);
    if (!tss.segment.present()) return core.raise(Vector::NP, error);
    FLOW_TRY(widen(core, selector, tss));
    FLOW_TRY(store_implicit(core, tss.linear + 4, 4, (tss.raw | x86::descriptor_tss_busy) >> 32));
    core.state.tr = tss.segment;
    core.state.tr.attributes |= 2;
    return Flow::next;
}

template <Segment x86::CpuState::*which>
Flow store_selector(Core& core, const Op& op) noexcept
{
    if (!descriptors_in_use(core)) return core.raise(Vector::UD);
    FLOW_TRY(refuse_umip(core));
    return write_rm(core, op, op.memory ? 2 : op.operand_size, (core.state.*which).selector);
}

// ---- LAR, LSL, VERR, VERW, ARPL -----------------------------------------------------------------------

Flow set_zf(Core& core, bool value)
{
    const std::uint64_t flags = core.rflags();
    core.set_rflags(value ? flags | rflags::ZF : flags & ~rflags::ZF);
    return Flow::next;
}

// The descriptor that `selector` names, if it names one: nothing here faults but the access.
Flow inspect(Core& core, std::uint16_t selector, Descriptor& out, bool& found)
{
    found = false;
    if (x86::selector_null(selector)) return Flow::next;
    const Flow flow = read_descriptor(core, selector, Vector::GP, out);
    if (flow == Flow::fault && core.fault.vector == Vector::GP) return Flow::next;
    found = flow == Flow::next;
    return flow;
}

bool visible(const Core& core, std::uint16_t selector, const Segment& segment)
{
    if (x86::is_conforming(segment)) return true;
    return core.cpl <= segment.dpl() && x86::selector_rpl(selector) <= segment.dpl();
}

constexpr std::uint16_t types(std::initializer_list<unsigned> list)
{
    unsigned mask = 0;
    for (const unsigned type : list) mask |= 1u << type;
    return static_cast<std::uint16_t>(mask);
}

struct SystemTypes {
    std::uint16_t legacy, long_mode;
};
constexpr SystemTypes lar_types{types({1, 2, 3, 4, 5, 9, 11, 12}), types({2, 9, 11, 12})};
constexpr SystemTypes lsl_types{types({1, 2, 3, 9, 11}), types({2, 9, 11})};

// Reads the selector of the rm operand; `ok` when LAR or LSL may tell about it.
Flow inspect_operand(Core& core, const Op& op, SystemTypes allowed, Descriptor& out, bool& ok)
{
    if (!descriptors_in_use(core)) return core.raise(Vector::UD);
    std::uint64_t value = 0;
    FLOW_TRY(read_rm(core, op, 2, value));
    const auto selector = static_cast<std::uint16_t>(value);
    FLOW_TRY(inspect(core, selector, out, ok));
    if (!ok) return Flow::next;
    const Segment& segment = out.segment;
    const unsigned mask = core.state.long_mode() ? allowed.long_mode : allowed.legacy;
    const bool known = segment.code_or_data() || (mask >> segment.type() & 1) != 0;
    ok = known && visible(core, selector, segment);
    return Flow::next;
}

Flow lar(Core& core, const Op& op) noexcept
{
    Descriptor descriptor;
    bool ok = false;
    FLOW_TRY(inspect_operand(core, op, lar_types, descriptor, ok));
    if (ok) write_gpr(core, op.reg, op.operand_size, descriptor.raw >> 32 & 0x00ffff00);
    return set_zf(core, ok);
}

Flow lsl(Core& core, const Op& op) noexcept
{
    Descriptor descriptor;
    bool ok = false;
    FLOW_TRY(inspect_operand(core, op, lsl_types, descriptor, ok));
    if (ok) write_gpr(core, op.reg, op.operand_size, descriptor.segment.limit);
    return set_zf(core, ok);
}

template <bool write>
Flow verify(Core& core, const Op& op) noexcept
{
    Descriptor descriptor;
    bool ok = false;
    FLOW_TRY(inspect_operand(core, op, {0, 0}, descriptor, ok));
    const Segment& segment = descriptor.segment;
    return set_zf(core, ok && (write ? x86::is_writable(segment) : x86::is_readable(segment)));
}

Flow arpl(Core& core, const Op& op) noexcept
{
    if (!descriptors_in_use(core)) return core.raise(Vector::UD);
    std::uint64_t target = 0;
    std::uint64_t linear = 0;
    if (op.memory) {
        FLOW_TRY(done(core, core.operand_address(op, 2, true, linear)));
        FLOW_TRY(load(core, linear, 2, target));
    } else {
        target = read_gpr(core, op.rm, 2);
    }
    const std::uint64_t rpl = read_gpr(core, op.reg, 2) & 3;
    const bool raise = (target & 3) < rpl;
    if (raise) {
        target = (target & ~std::uint64_t{3}) | rpl;
        if (op.memory) {
            FLOW_TRY(store(core, linear, 2, target));
        } else {
            write_gpr(core, op.rm, 2, target);
        }
    }
    return set_zf(core, raise);
}

}  // namespace

bool lower_tables(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    op.operand_size = static_cast<std::uint8_t>(decoded.instruction.operand_width / 8);
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_LGDT: op.extra = gdt; op.run = load_table; return true;
    case ZYDIS_MNEMONIC_LIDT: op.extra = idt; op.run = load_table; return true;
    case ZYDIS_MNEMONIC_SGDT: op.extra = gdt; op.run = store_table; return true;
    case ZYDIS_MNEMONIC_SIDT: op.extra = idt; op.run = store_table; return true;
    case ZYDIS_MNEMONIC_LLDT: op.run = lldt; return true;
    case ZYDIS_MNEMONIC_LTR: op.run = ltr; return true;
    case ZYDIS_MNEMONIC_SLDT: op.run = store_selector<&x86::CpuState::ldtr>; return true;
    case ZYDIS_MNEMONIC_STR: op.run = store_selector<&x86::CpuState::tr>; return true;
    case ZYDIS_MNEMONIC_LAR: op.run = lar; return true;
    case ZYDIS_MNEMONIC_LSL: op.run = lsl; return true;
    case ZYDIS_MNEMONIC_VERR: op.run = verify<false>; return true;
    case ZYDIS_MNEMONIC_VERW: op.run = verify<true>; return true;
    case ZYDIS_MNEMONIC_ARPL: op.run = arpl; return true;
    default: return false;
    }
}

}  // namespace doppel::engine::interpret::privileged
