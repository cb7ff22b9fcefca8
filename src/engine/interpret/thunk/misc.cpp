// MXCSR, VZEROUPPER and VZEROALL, byte-masked stores, fences, MOVDIR64B: what would touch
// the host's own state, or memory in a way that a bounce buffer cannot show.
#include <algorithm>
#include <atomic>

#include "engine/interpret/thunk/run.h"
#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret::thunk {

namespace {

using namespace x86;

// The checks of a legacy SSE or, with extra_vex, an AVX instruction.
bool allowed(Core& core, const Op& op)
{
    const Requirements needs = requirements((op.extra & extra_vex) != 0 ? Unit::avx : Unit::sse);
    Vector fault{};
    if (may_run(core, needs, fault)) return true;
    (void)core.raise(fault);
    return false;
}

Flow run_ldmxcsr(Core& core, const Op& op) noexcept
{
    if (!allowed(core, op)) return Flow::fault;
    std::uint64_t linear = 0;
    std::uint32_t value = 0;
    if (!core.operand_address(op, 4, false, linear) || !core.load(linear, value)) {
        return core.pending_flow();
    }
    if ((value & ~mxcsr_supported) != 0) return core.raise(Vector::GP, 0);
    xsave_set(core.state.xsave, xsave_mxcsr, value);
    return Flow::next;
}

Flow run_stmxcsr(Core& core, const Op& op) noexcept
{
    if (!allowed(core, op)) return Flow::fault;
    std::uint64_t linear = 0;
    if (!core.operand_address(op, 4, true, linear) ||
        !core.store(linear, xsave_get<std::uint32_t>(core.state.xsave, xsave_mxcsr))) {
        return core.pending_flow();
    }
    return Flow::next;
}

// Registers 0-15 in 64-bit mode, 0-7 elsewhere; what is then all zero goes back to INIT.
Flow zero_vectors(Core& core, const Op& op, bool all)
{
    if (!allowed(core, op)) return Flow::fault;
    XsaveArea& area = core.state.xsave;
    if (core.code_size == CodeSize::bits64) {
        // Memory of a component in INIT need not be zero: the header says it.
        if (all) ensure_present(area, xcr0::SSE);
        if (all) std::memset(area.bytes.data() + xsave_xmm, 0, 256);
        xsave_set(area, xsave_header, xstate_bv(area) & ~(xcr0::AVX | xcr0::ZMM_HI256));
        return Flow::next;
    }
    ensure_present(area, xcr0::SSE | xcr0::AVX);
    if (all) std::memset(area.bytes.data() + xsave_xmm, 0, 128);
    std::memset(area.bytes.data() + xsave_offset_avx, 0, 128);
    std::memset(area.bytes.data() + xsave_offset_zmm_hi256, 0, 256);
    return Flow::next;
}

Flow run_vzeroupper(Core& core, const Op& op) noexcept { return zero_vectors(core, op, false); }
Flow run_vzeroall(Core& core, const Op& op) noexcept { return zero_vectors(core, op, true); }

// Stores byte i of `data` where bit 7 of byte i of `mask` is set, at [rDI].
Flow store_masked_bytes(Core& core, const Op& op, std::span<const std::uint8_t> data,
                        std::span<const std::uint8_t> mask)
{
    std::uint64_t offset = core.gpr[RDI];
    if (op.address_size == 4) offset &= 0xffffffffu;
    if (op.address_size == 2) offset &= 0xffffu;
    const unsigned segment = op.segment == segment_none ? unsigned{DS} : op.segment;
    std::array<std::uint64_t, 16> linear{};
    for (std::size_t i = 0; i < data.size(); ++i) {
        if ((mask[i] & 0x80) == 0) continue;
        if (!core.linear_address(segment, offset + i, 1, true, linear[i]) ||
            !core.check_write(linear[i], 1)) {
            return core.pending_flow();
        }
    }
    for (std::size_t i = 0; i < data.size(); ++i) {
        if ((mask[i] & 0x80) != 0 && !core.store(linear[i], data[i])) return core.pending_flow();
    }
    return Flow::next;
}

Flow run_maskmovdqu(Core& core, const Op& op) noexcept
{
    if (!allowed(core, op)) return Flow::fault;
    ensure_present(core.state.xsave, xcr0::SSE);
    std::array<std::uint8_t, 16> data{}, mask{};
    read_vector(core.state.xsave, op.reg, data);
    read_vector(core.state.xsave, op.rm, mask);
    return store_masked_bytes(core, op, data, mask);
}

Flow run_maskmovq(Core& core, const Op& op) noexcept
{
    Requirements needs = requirements(Unit::mmx);
    needs.pending_x87 = true;
    Vector fault{};
    if (!may_run(core, needs, fault)) return core.raise(fault);
    XsaveArea& area = core.state.xsave;
    ensure_present(area, xcr0::X87);
    std::array<std::uint8_t, 8> data{}, mask{};
    // MMX registers are the physical ones, FXSAVE's are relative to the top of the stack.
    const auto fsw = xsave_get<std::uint16_t>(area, xsave_fsw);
    const unsigned top = (fsw >> 11) & 7;
    const auto slot = [&](unsigned reg) { return area.bytes.data() + xsave_st + 16 * ((reg - top) & 7); };
    std::memcpy(data.data(), slot(op.reg), data.size());
    std::memcpy(mask.data(), slot(op.rm), mask.size());
    const Flow flow = store_masked_bytes(core, op, data, mask);
    if (flow != Flow::next) return flow;
    // Any MMX instruction but EMMS: top of stack 0, all registers in use.
    std::array<std::uint8_t, 128> physical{};
    for (unsigned i = 0; i < 8; ++i) std::memcpy(physical.data() + std::size_t{16} * i, slot(i), 16);
    std::memcpy(area.bytes.data() + xsave_st, physical.data(), physical.size());
    xsave_set(area, xsave_fsw, static_cast<std::uint16_t>(fsw & ~0x3800u));
    area.bytes[xsave_ftw] = 0xff;
    return Flow::next;
}

Flow run_movdir64b(Core& core, const Op& op) noexcept
{
    std::uint64_t source = 0, target = 0;
    std::uint64_t offset = core.gpr[op.reg];
    if (op.address_size == 4) offset &= 0xffffffffu;
    if (op.address_size == 2) offset &= 0xffffu;
    std::array<std::byte, 64> data{};
    if (!core.operand_address(op, 64, false, source) || !core.load_bytes(source, data) ||
        !core.linear_address(ES, offset, 64, true, target)) {
        return core.pending_flow();
    }
    if ((target & 63) != 0) return core.raise(Vector::GP, 0);
    return core.check_write(target, 64) && core.store_bytes(target, data) ? Flow::next
                                                                          : core.pending_flow();
}

// The interpreter's accesses to RAM are the host's own: so is their order.
Flow run_fence(Core&, const Op&) noexcept
{
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return Flow::next;
}

}  // namespace

Flow run_hint(Core&, const Op&) noexcept { return Flow::next; }

Handler handler_misc(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR: return run_ldmxcsr;
    case ZYDIS_MNEMONIC_STMXCSR: case ZYDIS_MNEMONIC_VSTMXCSR: return run_stmxcsr;
    case ZYDIS_MNEMONIC_VZEROUPPER: return run_vzeroupper;
    case ZYDIS_MNEMONIC_VZEROALL: return run_vzeroall;
    case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU: return run_maskmovdqu;
    case ZYDIS_MNEMONIC_MASKMOVQ: return run_maskmovq;
    case ZYDIS_MNEMONIC_MOVDIR64B: return run_movdir64b;
    case ZYDIS_MNEMONIC_LFENCE: case ZYDIS_MNEMONIC_MFENCE: case ZYDIS_MNEMONIC_SFENCE:
        return run_fence;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret::thunk
