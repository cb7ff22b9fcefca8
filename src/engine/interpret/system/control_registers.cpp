// CR0-CR8, DR0-DR7, XCR0. SDM volume 3 section 2.5, 4.1.2, 4.4.1, 17.2, volume 2 MOV CR, LMSW,
// XSETBV.
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {

constexpr std::uint64_t cr0_defined = cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE |
                                      cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
// A change of these changes what a translation means.
constexpr std::uint64_t cr0_paging = cr0::PE | cr0::PG | cr0::WP;
constexpr std::uint64_t cr4_paging = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP | cr4::SMAP |
                                     cr4::PCIDE | cr4::LA57 | cr4::PKE;

class GuestTables final : public x86::PageTableMemory {
public:
    explicit GuestTables(memory::GuestMemory& memory) : memory_(memory) {}
    std::uint64_t read(base::Gpa gpa, unsigned size) noexcept override
    {
        std::uint64_t value = 0;
        const auto bytes = std::as_writable_bytes(std::span{&value, 1}).first(size);
        return memory_.read(gpa, bytes) ? value : size_mask(size);
    }
    bool compare_and_swap(base::Gpa, unsigned, std::uint64_t, std::uint64_t) noexcept override
    {
        return true;
    }

private:
    memory::GuestMemory& memory_;
};

// PAE paging loads its four PDPTEs with CR3, CR0 and CR4.
bool pdptes_valid(Core& core, std::uint64_t cr0, std::uint64_t cr3, std::uint64_t cr4)
{
    if ((cr0 & cr0::PG) == 0 || (cr4 & cr4::PAE) == 0 || core.state.long_mode()) return true;
    x86::PagingState paging;
    paging.cr0 = cr0;
    paging.cr3 = cr3;
    paging.cr4 = cr4;
    paging.efer = core.state.efer;
    paging.physical_address_bits = core.cpuid.physical_address_bits();
    GuestTables tables{core.memory};
    return x86::pae_pdptes_valid(tables, paging);
}

// Entering and leaving IA-32e mode with CR0.PG. False: #GP.
bool long_mode_transition_valid(const Core& core, std::uint64_t value)
{
    const auto& state = core.state;
    const bool paging = (value & cr0::PG) != 0, was_paging = (state.cr0 & cr0::PG) != 0;
    if (paging && !was_paging && (state.efer & efer::LME) != 0) {
        if ((state.cr4 & cr4::PAE) == 0 || state.segments[x86::CS].l()) return false;
        // A 16-bit TSS has no meaning in IA-32e mode.
        if (state.tr.type() == 1 || state.tr.type() == 3) return false;
    }
    if (!paging && was_paging && state.long_mode()) {
        if (code64(core)) return false;
        if ((state.cr4 & cr4::PCIDE) != 0) return false;
    }
    return true;
}

Flow read_cr(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    std::uint64_t value = 0;
    switch (op.extra) {
    case 0: value = core.state.cr0; break;
    case 2: value = core.state.cr2; break;
    case 3: value = core.state.cr3; break;
    case 4: value = core.state.cr4; break;
    default: value = core.system->environment().cr8(); break;
    }
    write_gpr(core, op.rm, op.operand_size, value);
    return Flow::next;
}

Flow write_cr(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    const std::uint64_t value = read_gpr(core, op.rm, op.operand_size);
    switch (op.extra) {
    case 0: FLOW_TRY(write_cr0(core, value)); break;
    case 2: core.state.cr2 = value; break;
    case 3: FLOW_TRY(write_cr3(core, value)); break;
    case 4: FLOW_TRY(write_cr4(core, value)); break;
    default:
        if ((value & ~std::uint64_t{0xf}) != 0) return core.raise(Vector::GP);
        core.system->environment().set_cr8(value);
        break;
    }
    return finish(core, op);
}

// ---- debug registers --------------------------------------------------------------------------

// #UD for DR4-5 under CR4.DE, #DB for general detect, the number otherwise.
Flow check_dr(Core& core, const Op& op, unsigned& number)
{
    number = op.extra;
    if (number == 4 || number == 5) {
        if ((core.state.cr4 & cr4::DE) != 0) return core.raise(Vector::UD);
        number += 2;
    }
    FLOW_TRY(require_cpl0(core));
    if ((core.state.dr7 & x86::dr7::GD) != 0) {
        Fault fault = x86::make_fault(Vector::DB);
        fault.address = x86::dr6::BD;
        return core.raise(fault);
    }
    return Flow::next;
}

Flow read_dr(Core& core, const Op& op) noexcept
{
    unsigned number = 0;
    FLOW_TRY(check_dr(core, op, number));
    const std::uint64_t value = number < 4    ? core.state.dr[number]
                                : number == 6 ? core.state.dr6
                                              : core.state.dr7;
    write_gpr(core, op.rm, op.operand_size, value);
    return Flow::next;
}

Flow write_dr(Core& core, const Op& op) noexcept
{
    unsigned number = 0;
    FLOW_TRY(check_dr(core, op, number));
    const std::uint64_t value = read_gpr(core, op.rm, op.operand_size);
    if (number >= 6 && value >> 32 != 0) return core.raise(Vector::GP);
    if (number < 4) {
        core.state.dr[number] = value;
    } else if (number == 6) {
        core.state.dr6 = (value & 0xe00f) | x86::dr6::FIXED;
    } else {
        core.state.dr7 = (value & 0xffff2bff) | x86::dr7::FIXED;
    }
    core.update_mode();
    return finish(core, op);
}

// ---- LMSW, SMSW, CLTS, XCR0 ---------------------------------------------------------------------

Flow clts(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    core.state.cr0 &= ~cr0::TS;
    core.update_mode();
    return finish(core, op);
}

Flow lmsw(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    std::uint64_t value = 0;
    FLOW_TRY(read_rm(core, op, 2, value));
    // PE can be set but not cleared.
    const std::uint64_t kept = core.state.cr0 & ~std::uint64_t{0xe};
    FLOW_TRY(write_cr0(core, kept | (value & 0xf)));
    return finish(core, op);
}

Flow smsw(Core& core, const Op& op) noexcept
{
    if ((core.state.cr4 & cr4::UMIP) != 0 && core.cpl != 0) return core.raise(Vector::GP);
    return write_rm(core, op, op.memory ? 2 : op.operand_size, core.state.cr0);
}

bool xcr0_valid(const Core& core, std::uint64_t value)
{
    namespace x = x86::xcr0;
    const std::uint64_t avx512 = x::OPMASK | x::ZMM_HI256 | x::HI16_ZMM;
    if ((value & ~core.cpuid.xcr0_mask()) != 0 || (value & x::X87) == 0) return false;
    if ((value & x::AVX) != 0 && (value & x::SSE) == 0) return false;
    if ((value & avx512) == 0) return true;
    return (value & avx512) == avx512 && (value & x::AVX) != 0;
}

Flow xsetbv(Core& core, const Op& op) noexcept
{
    if ((core.state.cr4 & cr4::OSXSAVE) == 0) return core.raise(Vector::UD);
    FLOW_TRY(require_cpl0(core));
    const std::uint64_t value = read_gpr(core, x86::RDX, 4) << 32 | read_gpr(core, x86::RAX, 4);
    if (read_gpr(core, x86::RCX, 4) != 0 || !xcr0_valid(core, value)) return core.raise(Vector::GP);
    core.state.xcr0 = value;
    core.update_mode();
    return finish(core, op);
}

Flow xgetbv(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    if ((core.state.cr4 & cr4::OSXSAVE) == 0) return core.raise(Vector::UD);
    const std::uint64_t index = read_gpr(core, x86::RCX, 4);
    std::uint64_t value = core.state.xcr0;
    if (index == 1 && core.cpuid.has(0xd, 1, 'a', 2)) {
        // XINUSE: XSTATE_BV is kept exact.
        std::uint64_t in_use = 0;
        std::memcpy(&in_use, core.state.xsave.bytes.data() + 512, sizeof in_use);
        value &= in_use;
    } else if (index != 0) {
        return core.raise(Vector::GP);
    }
    write_gpr(core, x86::RAX, 4, value);
    write_gpr(core, x86::RDX, 4, value >> 32);
    return Flow::next;
}

int control_register(ZydisRegister reg)
{
    if (reg < ZYDIS_REGISTER_CR0 || reg > ZYDIS_REGISTER_CR15) return -1;
    return static_cast<int>(reg - ZYDIS_REGISTER_CR0);
}

int debug_register(ZydisRegister reg)
{
    if (reg < ZYDIS_REGISTER_DR0 || reg > ZYDIS_REGISTER_DR15) return -1;
    return static_cast<int>(reg - ZYDIS_REGISTER_DR0);
}

bool lower_mov(const Decoded& decoded, Op& op)
{
    for (std::size_t i = 0; i < 2; ++i) {
        if (decoded.operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
        const auto reg = decoded.operands[i].reg.value;
        const int control = control_register(reg), debug = debug_register(reg);
        if (control < 0 && debug < 0) continue;
        const auto number = static_cast<unsigned>(control < 0 ? debug : control);
        op.extra = static_cast<std::uint8_t>(number);
        op.operand_size = decoded.code_size == CodeSize::bits64 ? 8 : 4;
        if (control >= 0) {
            const bool exists = number == 0 || (number >= 2 && number <= 4) || number == 8;
            op.run = !exists ? raise_ud : i == 0 ? write_cr : read_cr;
        } else {
            op.run = number >= 8 ? raise_ud : i == 0 ? write_dr : read_dr;
        }
        return true;
    }
    return false;
}

}  // namespace

Flow write_cr0(Core& core, std::uint64_t value)
{
    auto& state = core.state;
    if (value >> 32 != 0) return core.raise(Vector::GP);
    value = (value & cr0_defined) | cr0::ET;
    const bool paging = (value & cr0::PG) != 0;
    if ((paging && (value & cr0::PE) == 0) || ((value & cr0::NW) != 0 && (value & cr0::CD) == 0) ||
        !long_mode_transition_valid(core, value)) {
        return core.raise(Vector::GP);
    }
    const std::uint64_t changed = value ^ state.cr0;
    const bool enters_long = paging && (changed & cr0::PG) != 0 && (state.efer & efer::LME) != 0;
    if (!enters_long && (changed & (cr0::PG | cr0::CD | cr0::NW)) != 0 &&
        !pdptes_valid(core, value, state.cr3, state.cr4)) {
        return core.raise(Vector::GP);
    }
    state.cr0 = value;
    if ((changed & cr0::PG) != 0) {
        state.efer &= ~efer::LMA;
        if (paging && (state.efer & efer::LME) != 0) state.efer |= efer::LMA;
    }
    core.update_mode();
    if ((changed & cr0_paging) != 0) core.flush_tlb(false);
    return Flow::next;
}

Flow write_cr3(Core& core, std::uint64_t value)
{
    auto& state = core.state;
    bool keep = false;
    if (state.long_mode()) {
        // Bit 63 asks to keep the translations of the PCID; it is not stored.
        constexpr std::uint64_t keep_bit = std::uint64_t{1} << 63;
        if ((state.cr4 & cr4::PCIDE) != 0) {
            keep = (value & keep_bit) != 0;
            value &= ~keep_bit;
        }
        if (value >> core.cpuid.physical_address_bits() != 0) return core.raise(Vector::GP);
    } else {
        value &= 0xffffffff;
        if (!pdptes_valid(core, state.cr0, value, state.cr4)) return core.raise(Vector::GP);
    }
    core.change_address_space(value, keep);
    return Flow::next;
}

Flow write_cr4(Core& core, std::uint64_t value)
{
    auto& state = core.state;
    if ((value & ~core.cpuid.cr4_mask()) != 0) return core.raise(Vector::GP);
    const std::uint64_t changed = value ^ state.cr4;
    if (state.long_mode()) {
        if ((value & cr4::PAE) == 0 || (changed & cr4::LA57) != 0) return core.raise(Vector::GP);
    }
    if ((changed & value & cr4::PCIDE) != 0 && (!state.long_mode() || (state.cr3 & 0xfff) != 0)) {
        return core.raise(Vector::GP);
    }
    constexpr std::uint64_t reloads = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP;
    if ((changed & reloads) != 0 && !pdptes_valid(core, state.cr0, state.cr3, value)) {
        return core.raise(Vector::GP);
    }
    state.cr4 = value;
    core.update_mode();
    if ((changed & cr4_paging) != 0) core.flush_tlb(false);
    return Flow::next;
}

bool lower_control_registers(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_MOV: return decoded.operands.size() >= 2 && lower_mov(decoded, op);
    case ZYDIS_MNEMONIC_CLTS: op.run = clts; return true;
    case ZYDIS_MNEMONIC_LMSW: op.run = lmsw; return true;
    case ZYDIS_MNEMONIC_SMSW:
        op.operand_size = static_cast<std::uint8_t>(decoded.instruction.operand_width / 8);
        op.run = smsw;
        return true;
    case ZYDIS_MNEMONIC_XSETBV: op.run = xsetbv; return true;
    case ZYDIS_MNEMONIC_XGETBV: op.run = xgetbv; return true;
    default: return false;
    }
}

}  // namespace doppel::engine::interpret::privileged
