// CPUID, time-stamp counter, interrupt flag, HLT, TLB and cache control, SMAP's AC.
#include <cstring>

#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {

Flow cpuid(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    x86::CpuidInputs inputs;
    inputs.cr4 = core.state.cr4;
    inputs.xcr0 = core.state.xcr0;
    inputs.apic_base = core.state.apic_base;
    inputs.apic_id = core.system->environment().apic_id();
    const auto result = core.cpuid.query(static_cast<std::uint32_t>(core.gpr[x86::RAX]),
                                         static_cast<std::uint32_t>(core.gpr[x86::RCX]), inputs);
    core.gpr[x86::RAX] = result.eax;
    core.gpr[x86::RBX] = result.ebx;
    core.gpr[x86::RCX] = result.ecx;
    core.gpr[x86::RDX] = result.edx;
    return Flow::next;
}

Flow rdtsc(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    if ((core.state.cr4 & cr4::TSD) != 0 && core.cpl != 0) return core.raise(Vector::GP);
    const std::uint64_t value = core.system->tsc();
    write_gpr(core, x86::RAX, 4, value);
    write_gpr(core, x86::RDX, 4, value >> 32);
    return Flow::next;
}

Flow rdtscp(Core& core, const Op& op) noexcept
{
    if (!core.cpuid.has(0x80000001, 0, 'd', 27)) return core.raise(Vector::UD);
    FLOW_TRY(rdtsc(core, op));
    write_gpr(core, x86::RCX, 4, core.state.tsc_aux);
    return Flow::next;
}

Flow rdpid(Core& core, const Op& op) noexcept
{
    if (!core.cpuid.has(7, 0, 'c', 22)) return core.raise(Vector::UD);
    core.gpr[op.rm & 15] = core.state.tsc_aux;
    return Flow::next;
}

// Nothing is in flight between two of our instructions.
Flow serialize(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    return core.cpuid.has(7, 0, 'd', 14) ? Flow::next : core.raise(Vector::UD);
}

// No counters are offered.
Flow rdpmc(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    return core.raise(Vector::GP);
}

// ---- the interrupt flag -----------------------------------------------------------------------------

// Whose flag CLI and STI touch. SDM volume 2 CLI, STI; volume 3 section 21.3.
enum class FlagOwner { processor, program, nobody };

FlagOwner interrupt_flag_owner(const Core& core)
{
    if (!core.state.protected_mode() || core.cpl <= iopl(core)) return FlagOwner::processor;
    const std::uint64_t extension = core.state.vm86() ? cr4::VME : cr4::PVI;
    return (core.state.cr4 & extension) != 0 && core.cpl == 3 ? FlagOwner::program
                                                              : FlagOwner::nobody;
}

Flow cli(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    switch (interrupt_flag_owner(core)) {
    case FlagOwner::processor: core.state.rflags &= ~rflags::IF; return Flow::next;
    case FlagOwner::program: core.state.rflags &= ~rflags::VIF; return Flow::next;
    case FlagOwner::nobody: break;
    }
    return core.raise(Vector::GP);
}

Flow sti(Core& core, const Op& op) noexcept
{
    switch (interrupt_flag_owner(core)) {
    case FlagOwner::processor: {
        const bool was_enabled = (core.state.rflags & rflags::IF) != 0;
        core.state.rflags |= rflags::IF;
        if (was_enabled) return Flow::next;
        core.state.events.interrupt_shadow = true;
        return finish(core, op);
    }
    case FlagOwner::program:
        if ((core.state.rflags & rflags::VIP) != 0) return core.raise(Vector::GP);
        core.state.rflags |= rflags::VIF;
        return Flow::next;
    case FlagOwner::nobody: break;
    }
    return core.raise(Vector::GP);
}

Flow hlt(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    core.state.events.activity = x86::Activity::halted;
    core.end_block();
    return finish(core, op);
}

// ---- SMAP ----------------------------------------------------------------------------------------------

template <bool set>
Flow set_ac(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    if (!core.cpuid.has(7, 0, 'b', 20) || core.cpl != 0) return core.raise(Vector::UD);
    const std::uint64_t flags = core.rflags();
    core.set_rflags(set ? flags | rflags::AC : flags & ~rflags::AC);
    return Flow::next;
}

// ---- translations and caches ------------------------------------------------------------------------------

Flow invlpg(Core& core, const Op& op) noexcept
{
    FLOW_TRY(require_cpl0(core));
    std::uint64_t linear = core.segment_base[op.segment] + core.effective_offset(op);
    if (!code64(core)) linear &= 0xffffffff;
    core.flush_tlb_page(linear);
    return finish(core, op);
}

Flow invpcid(Core& core, const Op& op) noexcept
{
    if (!core.cpuid.has(7, 0, 'b', 10) || !core.state.protected_mode()) {
        return core.raise(Vector::UD);
    }
    FLOW_TRY(require_cpl0(core));
    const std::uint64_t type = read_gpr(core, op.reg, code64(core) ? 8 : 4);
    std::uint64_t at = 0, pcid = 0, linear = 0;
    FLOW_TRY(done(core, core.operand_address(op, 16, false, at)));
    FLOW_TRY(load(core, at, 8, pcid));
    FLOW_TRY(load(core, at + 8, 8, linear));
    const bool no_pcids = (core.state.cr4 & cr4::PCIDE) == 0;
    if (type > 3 || (pcid >> 12) != 0) return core.raise(Vector::GP);
    if (type < 2 && no_pcids && pcid != 0) return core.raise(Vector::GP);
    if (type == 0 && !canonical(linear)) return core.raise(Vector::GP);
    core.flush_pcid(static_cast<unsigned>(type), static_cast<std::uint16_t>(pcid), linear);
    return finish(core, op);
}

Flow invalidate_caches(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    return require_cpl0(core);
}

// ---- MONITOR and MWAIT ---------------------------------------------------------------------------------------

Flow monitor(Core& core, const Op& op) noexcept
{
    if (!core.cpuid.has(1, 0, 'c', 3) || core.cpl != 0) return core.raise(Vector::UD);
    if (read_gpr(core, x86::RCX, 4) != 0) return core.raise(Vector::GP);
    std::uint64_t linear = 0;
    const std::uint64_t offset = read_gpr(core, x86::RAX, op.address_size);
    const unsigned segment = op.segment < segment_none ? op.segment : unsigned{x86::DS};
    FLOW_TRY(done(core, core.linear_address(segment, offset, 1, false, linear)));
    return done(core, core.check_read(linear, 1));
}

// Comes back at once, as a processor may: the guest looks again.
Flow mwait(Core& core, const Op& op) noexcept
{
    if (!core.cpuid.has(1, 0, 'c', 3) || core.cpl != 0) return core.raise(Vector::UD);
    if ((read_gpr(core, x86::RCX, 4) & ~std::uint64_t{1}) != 0) return core.raise(Vector::GP);
    return finish(core, op);
}

}  // namespace

bool lower_misc(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_CPUID: op.run = cpuid; return true;
    case ZYDIS_MNEMONIC_RDTSC: op.run = rdtsc; return true;
    case ZYDIS_MNEMONIC_RDTSCP: op.run = rdtscp; return true;
    case ZYDIS_MNEMONIC_RDPID: op.run = rdpid; return true;
    case ZYDIS_MNEMONIC_SERIALIZE: op.run = serialize; return true;
    case ZYDIS_MNEMONIC_RDPMC: op.run = rdpmc; return true;
    case ZYDIS_MNEMONIC_CLI: op.run = cli; return true;
    case ZYDIS_MNEMONIC_STI: op.run = sti; return true;
    case ZYDIS_MNEMONIC_HLT: op.run = hlt; return true;
    case ZYDIS_MNEMONIC_STAC: op.run = set_ac<true>; return true;
    case ZYDIS_MNEMONIC_CLAC: op.run = set_ac<false>; return true;
    case ZYDIS_MNEMONIC_INVLPG: op.run = invlpg; return true;
    case ZYDIS_MNEMONIC_INVPCID: op.run = invpcid; return true;
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD: op.run = invalidate_caches; return true;
    case ZYDIS_MNEMONIC_MONITOR: op.run = monitor; return true;
    case ZYDIS_MNEMONIC_MWAIT: op.run = mwait; return true;
    case ZYDIS_MNEMONIC_RSM: op.run = raise_ud; return true;
    default: return false;
    }
}

}  // namespace doppel::engine::interpret::privileged
