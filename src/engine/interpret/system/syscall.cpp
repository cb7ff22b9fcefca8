// SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS/GS base instructions. SDM volume 2,
// volume 3 section 5.8.7 and 5.8.8.
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"
#include "x86/system_call.h"

namespace doppel::engine::interpret::privileged {

namespace {

Flow syscall(Core& core, const Op& op) noexcept
{
    auto& state = core.state;
    if (!code64(core) || (state.efer & efer::SCE) == 0) return core.raise(Vector::UD);
    const std::uint64_t flags = core.rflags();
    core.gpr[x86::RCX] = core.next_rip(op);
    core.gpr[x86::R11] = flags & ~rflags::RF;
    state.rip = state.lstar;
    core.set_rflags(x86::syscall_flags(state, flags));
    x86::load_syscall_segments(state);
    core.update_mode();
    return Flow::leave;
}

Flow sysret(Core& core, const Op& op) noexcept
{
    auto& state = core.state;
    if (!code64(core) || (state.efer & efer::SCE) == 0) return core.raise(Vector::UD);
    if (core.cpl != 0) return core.raise(Vector::GP);
    const bool wide = op.operand_size == 8;
    const std::uint64_t rip = core.gpr[x86::RCX];
    if (wide && !canonical(rip)) return core.raise(Vector::GP);
    state.rip = wide ? rip : rip & 0xffffffff;
    core.set_rflags(x86::sysret_flags(core.gpr[x86::R11]));
    x86::load_sysret_segments(state, wide);
    core.update_mode();
    return Flow::leave;
}

Flow sysenter(Core& core, const Op& op) noexcept
{
    static_cast<void>(op);
    auto& state = core.state;
    if (!state.protected_mode() || (state.sysenter_cs & 0xfffc) == 0) return core.raise(Vector::GP);
    const bool wide = state.long_mode();
    core.set_rflags(core.rflags() & ~(rflags::VM | rflags::IF | rflags::RF));
    core.gpr[x86::RSP] = wide ? state.sysenter_esp : state.sysenter_esp & 0xffffffff;
    state.rip = wide ? state.sysenter_eip : state.sysenter_eip & 0xffffffff;
    const std::uint64_t cs = state.sysenter_cs & 0xfffc;
    x86::load_flat_segments(state, cs, cs + 8, 0, wide);
    core.update_mode();
    return Flow::leave;
}

Flow sysexit(Core& core, const Op& op) noexcept
{
    auto& state = core.state;
    if (!state.protected_mode() || (state.sysenter_cs & 0xfffc) == 0 || core.cpl != 0 ||
        state.vm86()) {
        return core.raise(Vector::GP);
    }
    const bool wide = op.operand_size == 8;
    const std::uint64_t rip = core.gpr[x86::RDX], rsp = core.gpr[x86::RCX];
    if (wide && (!canonical(rip) || !canonical(rsp))) return core.raise(Vector::GP);
    core.gpr[x86::RSP] = wide ? rsp : rsp & 0xffffffff;
    state.rip = wide ? rip : rip & 0xffffffff;
    const std::uint64_t base = state.sysenter_cs & 0xfffc;
    x86::load_flat_segments(state, (base + (wide ? 32 : 16)) | 3, (base + (wide ? 40 : 24)) | 3, 3,
                            wide);
    core.update_mode();
    return Flow::leave;
}

Flow swapgs(Core& core, const Op& op) noexcept
{
    if (!code64(core)) return core.raise(Vector::UD);
    FLOW_TRY(require_cpl0(core));
    std::swap(core.state.segments[x86::GS].base, core.state.kernel_gs_base);
    core.update_mode();
    static_cast<void>(op);
    return Flow::next;
}

bool base_instructions_allowed(const Core& core)
{
    return code64(core) && (core.state.cr4 & cr4::FSGSBASE) != 0;
}

Flow read_base(Core& core, const Op& op) noexcept
{
    if (!base_instructions_allowed(core)) return core.raise(Vector::UD);
    write_gpr(core, op.rm, op.operand_size, core.state.segments[op.extra].base);
    return Flow::next;
}

Flow write_base(Core& core, const Op& op) noexcept
{
    if (!base_instructions_allowed(core)) return core.raise(Vector::UD);
    const std::uint64_t value = read_gpr(core, op.rm, op.operand_size);
    if (!canonical(value)) return core.raise(Vector::GP);
    core.state.segments[op.extra].base = value;
    core.update_mode();
    return Flow::next;
}

}  // namespace

bool lower_syscall(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    const bool wide = decoded.instruction.raw.rex.W != 0;
    switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL: op.run = syscall; return true;
    case ZYDIS_MNEMONIC_SYSRET:
        op.operand_size = wide ? 8 : 4;
        op.run = sysret;
        return true;
    case ZYDIS_MNEMONIC_SYSENTER: op.run = sysenter; return true;
    case ZYDIS_MNEMONIC_SYSEXIT:
        op.operand_size = wide ? 8 : 4;
        op.run = sysexit;
        return true;
    case ZYDIS_MNEMONIC_SWAPGS: op.run = swapgs; return true;
    case ZYDIS_MNEMONIC_RDFSBASE: op.extra = x86::FS; op.run = read_base; break;
    case ZYDIS_MNEMONIC_RDGSBASE: op.extra = x86::GS; op.run = read_base; break;
    case ZYDIS_MNEMONIC_WRFSBASE: op.extra = x86::FS; op.run = write_base; break;
    case ZYDIS_MNEMONIC_WRGSBASE: op.extra = x86::GS; op.run = write_base; break;
    default: return false;
    }
    op.operand_size = wide ? 8 : 4;
    return true;
}

}  // namespace doppel::engine::interpret::privileged
