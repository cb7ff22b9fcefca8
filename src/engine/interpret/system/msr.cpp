// RDMSR and WRMSR. SDM volume 4; volume 3 sections 2.2.1 (EFER), 11.4.4 (APIC base), 11.11
// (MTRRs), 11.12.4 (PAT).
#include <bit>

#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"
#include "x86/msr.h"

namespace doppel::engine::interpret::privileged {

namespace {

namespace msr = x86::msr;

enum class Answer { ok, gp, refused };

Answer answer(bool ok) { return ok ? Answer::ok : Answer::gp; }

// CPUID.(EAX=7,ECX=0):EDX bits.
bool has_edx7(const Core& core, unsigned bit) { return core.cpuid.has(7, 0, 'd', bit); }
constexpr unsigned ibrs_bit = 26, stibp_bit = 27, l1d_flush_bit = 28, arch_capabilities_bit = 29,
                   ssbd_bit = 31;
constexpr unsigned bhi_ctrl_bit = 4;  // of subleaf 2

std::uint64_t spec_ctrl_mask(const Core& core)
{
    return (has_edx7(core, ibrs_bit) ? 1u : 0u) | (has_edx7(core, stibp_bit) ? 2u : 0u) |
           (has_edx7(core, ssbd_bit) ? 4u : 0u) |
           (core.cpuid.has(7, 2, 'd', bhi_ctrl_bit) ? 1u << 10 : 0u);
}

bool memory_type_valid(std::uint64_t type)
{
    return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

bool pat_valid(std::uint64_t value)
{
    for (unsigned i = 0; i < 8; ++i) {
        const std::uint64_t type = value >> (8 * i) & 0xff;
        if (!memory_type_valid(type) && type != 7) return false;
    }
    return true;
}

// ---- MTRRs --------------------------------------------------------------------------------------

constexpr unsigned variable_mtrrs = 8;
constexpr std::uint64_t mtrr_cap = variable_mtrrs | 1u << 8 | 1u << 10;  // fixed ranges, WC

// The fixed-range MTRR in CpuState, or nullptr.
template <typename State>
auto* fixed_mtrr(State& state, std::uint32_t index)
{
    auto& fixed = state.mtrr.fixed;
    if (index == msr::IA32_MTRR_FIX64K_00000) return &fixed[0];
    if (index == msr::IA32_MTRR_FIX16K_80000) return &fixed[1];
    if (index == msr::IA32_MTRR_FIX16K_A0000) return &fixed[2];
    const std::uint32_t n = index - msr::IA32_MTRR_FIX4K_C0000;
    return n < 8 ? &fixed[3 + n] : nullptr;
}

bool is_variable_mtrr(std::uint32_t index)
{
    return index - msr::IA32_MTRR_PHYSBASE0 < 2 * variable_mtrrs;
}

bool write_variable_mtrr(Core& core, std::uint32_t index, std::uint64_t value)
{
    const unsigned n = index - msr::IA32_MTRR_PHYSBASE0;
    const bool mask = (n & 1) != 0;
    const std::uint64_t reserved = ~((std::uint64_t{1} << core.cpuid.physical_address_bits()) - 1);
    if ((value & reserved) != 0 || (value & (mask ? 0x7ffu : 0xf00u)) != 0) return false;
    if (!mask && !memory_type_valid(value & 0xff)) return false;
    core.state.mtrr.variable[n] = value;
    return true;
}

bool write_fixed_mtrr(std::uint64_t& fixed, std::uint64_t value)
{
    for (unsigned i = 0; i < 8; ++i) {
        if (!memory_type_valid(value >> (8 * i) & 0xff)) return false;
    }
    fixed = value;
    return true;
}

bool write_mtrr_default(Core& core, std::uint64_t value)
{
    if ((value & ~std::uint64_t{0xcff}) != 0 || !memory_type_valid(value & 0xff)) return false;
    core.state.mtrr.def_type = value;
    return true;
}

// ---- EFER -----------------------------------------------------------------------------------------

bool write_efer(Core& core, std::uint64_t value)
{
    auto& state = core.state;
    std::uint64_t defined = efer::LMA;
    if (core.cpuid.has(0x80000001, 0, 'd', 11)) defined |= efer::SCE;
    if (core.cpuid.has(0x80000001, 0, 'd', 29)) defined |= efer::LME;
    if (core.cpuid.has(0x80000001, 0, 'd', 20)) defined |= efer::NXE;
    if ((value & ~defined) != 0) return false;
    const std::uint64_t changed = value ^ state.efer;
    if ((changed & efer::LME) != 0 && (state.cr0 & cr0::PG) != 0) return false;
    // LMA is read-only; writes of it are ignored.
    state.efer = (value & ~efer::LMA) | (state.efer & efer::LMA);
    core.update_mode();
    if ((changed & efer::NXE) != 0) core.flush_tlb(false);
    return true;
}

// ---- what belongs to the environment ----------------------------------------------------------------

Answer environment_answer(Core& core, bool served)
{
    if (served) return Answer::ok;
    return core.system->environment().rejected() ? Answer::gp : Answer::refused;
}

Answer unknown(Core& core)
{
    return core.system->environment().has_other_msrs() ? Answer::refused : Answer::gp;
}

bool has_tsc_deadline(const Core& core) { return core.cpuid.has(1, 0, 'c', 24); }

bool is_x2apic(std::uint32_t index)
{
    return index >= msr::IA32_X2APIC_FIRST && index <= msr::IA32_X2APIC_LAST;
}

// ---- the tables ---------------------------------------------------------------------------------------

// MSRs that are a plain field of CpuState. canonical: writes are checked.
struct Plain {
    std::uint32_t index;
    std::uint64_t x86::CpuState::*field;
    bool canonical;
    std::uint64_t writable;  // bits; others give #GP
};

constexpr std::uint64_t all = ~std::uint64_t{0};
constexpr std::array plain{
    Plain{msr::IA32_SYSENTER_CS, &x86::CpuState::sysenter_cs, false, all},
    Plain{msr::IA32_SYSENTER_ESP, &x86::CpuState::sysenter_esp, true, all},
    Plain{msr::IA32_SYSENTER_EIP, &x86::CpuState::sysenter_eip, true, all},
    Plain{msr::IA32_STAR, &x86::CpuState::star, false, all},
    Plain{msr::IA32_LSTAR, &x86::CpuState::lstar, true, all},
    Plain{msr::IA32_CSTAR, &x86::CpuState::cstar, true, all},
    Plain{msr::IA32_FMASK, &x86::CpuState::fmask, false, 0xffffffff},
    Plain{msr::IA32_KERNEL_GS_BASE, &x86::CpuState::kernel_gs_base, true, all},
    Plain{msr::IA32_TSC_AUX, &x86::CpuState::tsc_aux, false, 0xffffffff},
    Plain{msr::IA32_MISC_ENABLE, &x86::CpuState::misc_enable, false, all},
};

const Plain* find_plain(std::uint32_t index)
{
    for (const Plain& entry : plain) {
        if (entry.index == index) return &entry;
    }
    return nullptr;
}

Answer read(Core& core, std::uint32_t index, std::uint64_t& value)
{
    const auto& state = core.state;
    auto& system = *core.system;
    value = 0;
    if (const Plain* entry = find_plain(index); entry != nullptr) {
        value = state.*(entry->field);
        return Answer::ok;
    }
    if (is_x2apic(index)) {
        return environment_answer(core, system.environment().apic_read(index, value));
    }
    if (is_variable_mtrr(index)) {
        value = state.mtrr.variable[index - msr::IA32_MTRR_PHYSBASE0];
        return Answer::ok;
    }
    if (const auto* fixed = fixed_mtrr(state, index); fixed != nullptr) {
        value = *fixed;
        return Answer::ok;
    }
    switch (index) {
    case msr::IA32_TIME_STAMP_COUNTER: value = system.tsc(); return Answer::ok;
    case msr::IA32_PLATFORM_ID: return Answer::ok;
    case msr::IA32_APIC_BASE: value = state.apic_base; return Answer::ok;
    case msr::IA32_FEATURE_CONTROL: value = 1; return Answer::ok;  // locked, nothing enabled
    case msr::IA32_TSC_ADJUST: value = state.tsc_adjust; return answer(core.cpuid.has(7, 0, 'b', 1));
    case msr::IA32_SPEC_CTRL: value = state.spec_ctrl; return answer(spec_ctrl_mask(core) != 0);
    // A revision, so that kernels see a microcode update has been loaded.
    case msr::IA32_BIOS_SIGN_ID: value = std::uint64_t{1} << 32; return Answer::ok;
    case msr::IA32_MTRRCAP: value = mtrr_cap; return Answer::ok;
    case msr::IA32_MTRR_DEF_TYPE: value = state.mtrr.def_type; return Answer::ok;
    case msr::IA32_ARCH_CAPABILITIES:
        value = x86::arch_capabilities_interpreted;
        return answer(has_edx7(core, arch_capabilities_bit));
    case msr::IA32_MCG_CAP: case msr::IA32_MCG_STATUS: case msr::IA32_DEBUGCTL: return Answer::ok;
    case msr::IA32_PAT: value = state.pat; return Answer::ok;
    case msr::IA32_TSC_DEADLINE:
        if (!has_tsc_deadline(core)) return Answer::gp;
        value = system.environment().tsc_deadline();
        return Answer::ok;
    case msr::IA32_XSS: value = state.xss; return answer(core.cpuid.has(0xd, 1, 'a', 3));
    case msr::IA32_EFER: value = state.efer; return Answer::ok;
    case msr::IA32_FS_BASE: value = state.segments[x86::FS].base; return Answer::ok;
    case msr::IA32_GS_BASE: value = state.segments[x86::GS].base; return Answer::ok;
    default: break;
    }
    if (const std::uint64_t* paravirt = system.paravirt_msr(index); paravirt != nullptr) {
        value = *paravirt;
        return Answer::ok;
    }
    return unknown(core);
}

Answer write_plain(Core& core, const Plain& entry, std::uint64_t value)
{
    if ((entry.canonical && !canonical(value)) || (value & ~entry.writable) != 0) return Answer::gp;
    core.state.*(entry.field) = value;
    return Answer::ok;
}

Answer write_base(Core& core, unsigned segment, std::uint64_t value)
{
    if (!canonical(value)) return Answer::gp;
    core.state.segments[segment].base = value;
    core.update_mode();
    return Answer::ok;
}

// Writing either of them moves the other by as much. SDM volume 3 section 17.17.3.
void write_tsc(Core& core, std::uint64_t value)
{
    const std::uint64_t before = core.system->tsc();
    core.system->set_tsc(value);
    core.state.tsc_adjust += value - before;
}

Answer write_apic_base(Core& core, std::uint64_t value)
{
    auto& environment = core.system->environment();
    environment.set_apic_base(value);
    if (environment.rejected()) return Answer::gp;
    core.state.apic_base = value;
    core.flush_tlb(false);
    return Answer::ok;
}

Answer write(Core& core, std::uint32_t index, std::uint64_t value)
{
    auto& state = core.state;
    auto& system = *core.system;
    if (const Plain* entry = find_plain(index); entry != nullptr) {
        return write_plain(core, *entry, value);
    }
    if (is_x2apic(index)) {
        return environment_answer(core, system.environment().apic_write(index, value));
    }
    if (is_variable_mtrr(index)) return answer(write_variable_mtrr(core, index, value));
    if (auto* fixed = fixed_mtrr(state, index); fixed != nullptr) {
        return answer(write_fixed_mtrr(*fixed, value));
    }
    switch (index) {
    case msr::IA32_TIME_STAMP_COUNTER: write_tsc(core, value); return Answer::ok;
    case msr::IA32_APIC_BASE: return write_apic_base(core, value);
    case msr::IA32_TSC_ADJUST:
        if (!core.cpuid.has(7, 0, 'b', 1)) return Answer::gp;
        system.set_tsc(system.tsc() + (value - state.tsc_adjust));
        state.tsc_adjust = value;
        return Answer::ok;
    case msr::IA32_SPEC_CTRL: {
        const std::uint64_t mask = spec_ctrl_mask(core);
        if (mask == 0 || (value & ~mask) != 0) return Answer::gp;
        state.spec_ctrl = value;
        return Answer::ok;
    }
    // Commands: nothing here is predicted or cached on the guest's behalf.
    case msr::IA32_PRED_CMD: return answer(has_edx7(core, ibrs_bit) && (value & ~1ull) == 0);
    case msr::IA32_FLUSH_CMD: return answer(has_edx7(core, l1d_flush_bit) && (value & ~1ull) == 0);
    case msr::IA32_BIOS_SIGN_ID: return Answer::ok;
    case msr::IA32_MTRR_DEF_TYPE: return answer(write_mtrr_default(core, value));
    case msr::IA32_MCG_STATUS: case msr::IA32_DEBUGCTL: return answer(value == 0);
    case msr::IA32_PAT:
        if (!pat_valid(value)) return Answer::gp;
        state.pat = value;
        return Answer::ok;
    case msr::IA32_TSC_DEADLINE:
        if (!has_tsc_deadline(core)) return Answer::gp;
        system.environment().set_tsc_deadline(value);
        return Answer::ok;
    case msr::IA32_XSS: return answer(core.cpuid.has(0xd, 1, 'a', 3) && value == 0);
    case msr::IA32_EFER: return answer(write_efer(core, value));
    case msr::IA32_FS_BASE: return write_base(core, x86::FS, value);
    case msr::IA32_GS_BASE: return write_base(core, x86::GS, value);
    default: break;
    }
    if (system.paravirt_msr(index) == nullptr) return unknown(core);
    return answer(system.write_paravirt_msr(index, value));
}

Flow conclude(Core& core, Answer result)
{
    switch (result) {
    case Answer::ok: return Flow::next;
    case Answer::gp: return core.raise(Vector::GP);
    case Answer::refused: break;
    }
    core.system->environment_refused = true;
    return Flow::exit;
}

Flow rdmsr(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    FLOW_TRY(require_cpl0(core));
    std::uint64_t value = 0;
    FLOW_TRY(conclude(core, read(core, static_cast<std::uint32_t>(core.gpr[x86::RCX]), value)));
    write_gpr(core, x86::RAX, 4, value);
    write_gpr(core, x86::RDX, 4, value >> 32);
    return Flow::next;
}

Flow wrmsr(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    const std::uint64_t value = read_gpr(core, x86::RDX, 4) << 32 | read_gpr(core, x86::RAX, 4);
    FLOW_TRY(conclude(core, write(core, static_cast<std::uint32_t>(core.gpr[x86::RCX]), value)));
    return finish(core, op);
}

}  // namespace

bool lower_msr(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_RDMSR: op.run = rdmsr; return true;
    case ZYDIS_MNEMONIC_WRMSR: op.run = wrmsr; return true;
    default: return false;
    }
}

}  // namespace doppel::engine::interpret::privileged
