#include "engine/interpret/thunk/run.h"

#include <cstring>

#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret::thunk {

namespace {

using namespace x86;

// The exception behind a failed check, in the architecture's order: #UD, #NM, #MF.
Vector refusal(const Core& core, const Requirements& needs)
{
    const CpuState& state = core.state;
    if (needs.protected_mode && (!state.protected_mode() || state.vm86())) return Vector::UD;
    if ((state.cr4 & needs.cr4_set) != needs.cr4_set) return Vector::UD;
    if ((state.xcr0 & needs.xcr0_set) != needs.xcr0_set) return Vector::UD;
    const bool emulated = (state.cr0 & needs.cr0_clear & cr0::EM) != 0;
    if (emulated && needs.unit != Unit::x87) return Vector::UD;
    if (emulated || (state.cr0 & needs.cr0_clear & cr0::TS) != 0) return Vector::NM;
    return Vector::MF;
}

bool wait_blocked(const Core& core, const Requirements& needs)
{
    constexpr std::uint64_t both = cr0::MP | cr0::TS;
    return needs.unit == Unit::wait && (core.state.cr0 & both) == both;
}

// x87 last-instruction pointers. The routine's own addresses must never reach the guest:
// they are wrong, and they tell where doppel's code lies.
void mend_pointers(Core& core, const Op& op, const Thunk& thunk, const void* memory)
{
    XsaveArea& area = core.state.xsave;
    if (!core.thunks->owns_address(xsave_get<std::uint64_t>(area, xsave_fip))) return;
    const bool narrow = core.code_size != CodeSize::bits64;
    const std::uint64_t mask = narrow ? 0xffffffffu : ~std::uint64_t{0};
    xsave_set(area, xsave_fip, core.rip_of(op) & mask);
    if (thunk.memory.size == 0) return;
    if (xsave_get<std::uint64_t>(area, xsave_fdp) == reinterpret_cast<std::uint64_t>(memory)) {
        xsave_set(area, xsave_fdp, core.effective_offset(op) & mask);
    }
    // The host's FOP has the ModRM byte of [register].
    const auto fop = xsave_get<std::uint16_t>(area, xsave_fop);
    if (fop != 0) {
        xsave_set(area, xsave_fop, static_cast<std::uint16_t>((thunk.opcode << 8) | op.extra));
    }
}

Flow host_fault(Core& core, HostFault fault)
{
    switch (fault) {
    case HostFault::illegal: return core.raise(Vector::UD);
    case HostFault::x87: return core.raise(Vector::MF);
    case HostFault::simd:
        // SDM volume 1 section 11.5.1.
        return core.raise((core.state.cr4 & cr4::OSXMMEXCPT) != 0 ? Vector::XM : Vector::UD);
    default: return core.raise(Vector::GP, 0);
    }
}

// What a thunk may have changed, to undo it when its result cannot be stored.
struct Snapshot {
    explicit Snapshot(const Core& core) : gpr(core.gpr), flags(core.flags), xsave(core.state.xsave) {}
    void restore(Core& core) const
    {
        core.gpr = gpr;
        core.flags = flags;
        core.state.xsave = xsave;
    }
    decltype(Core::gpr) gpr;
    std::uint16_t flags;
    XsaveArea xsave;
};

// The operand is not plain RAM in one page: run on the bounce buffer and store after. A
// device may want to be asked first; the instruction then starts again, so it must not
// have happened.
Flow write_slowly(Core& core, const Op& op, const Thunk& thunk, std::uint64_t linear)
{
    const std::size_t size = thunk.memory.size;
    if (!core.check_write(linear, static_cast<unsigned>(size))) return core.pending_flow();
    std::byte* bounce = core.thunks->bounce(linear);
    if (thunk.memory.read && !core.load_bytes(linear, {bounce, size})) return core.pending_flow();
    const Snapshot before{core};
    const Flow flow = execute(core, op, thunk, bounce);
    if (flow != Flow::next) return flow;
    if (core.store_bytes(linear, {bounce, size})) return Flow::next;
    before.restore(core);
    return core.pending_flow();
}

}  // namespace

Requirements requirements(Unit unit)
{
    Requirements needs;
    needs.unit = unit;
    switch (unit) {
    case Unit::general: case Unit::wait: break;
    case Unit::general_vex: needs.protected_mode = true; break;
    case Unit::x87: case Unit::mmx: needs.cr0_clear = cr0::EM | cr0::TS; break;
    case Unit::sse:
        needs.cr0_clear = cr0::EM | cr0::TS;
        needs.cr4_set = cr4::OSFXSR;
        break;
    case Unit::avx:
    case Unit::avx512:
        needs.protected_mode = true;
        needs.cr0_clear = cr0::TS;
        needs.cr4_set = cr4::OSXSAVE;
        needs.xcr0_set = unit == Unit::avx ? xcr0::SSE | xcr0::AVX
                                           : xcr0::SUPPORTED & ~xcr0::X87;
        break;
    }
    return needs;
}

bool may_run(const Core& core, const Requirements& needs, Vector& fault) noexcept
{
    const CpuState& state = core.state;
    if ((state.cr0 & needs.cr0_clear) == 0 && (state.cr4 & needs.cr4_set) == needs.cr4_set &&
        (state.xcr0 & needs.xcr0_set) == needs.xcr0_set &&
        !(needs.protected_mode && (!state.protected_mode() || state.vm86())) &&
        !(needs.pending_x87 && x87_pending(state.xsave))) [[likely]] {
        if (!wait_blocked(core, needs)) [[likely]] return true;
        fault = Vector::NM;
        return false;
    }
    fault = wait_blocked(core, needs) ? Vector::NM : refusal(core, needs);
    return false;
}

Flow execute(Core& core, const Op& op, const Thunk& thunk, void* memory) noexcept
{
    ensure_present(core.state.xsave, thunk.needs.components);
    ++core.thunk_runs;
    current_thunk = &thunk;
    const std::uint64_t result = thunk.enter(&core, memory);
    current_thunk = nullptr;
    if (result != 0) [[unlikely]] return host_fault(core, HostFault{result});
    if (thunk.saves_x87) mend_pointers(core, op, thunk, memory);
    return Flow::next;
}

Flow run_register(Core& core, const Op& op) noexcept
{
    const Thunk* thunk = current(op);
    if (thunk == nullptr) [[unlikely]] return run_again(core, op);
    Vector fault{};
    if (!may_run(core, thunk->needs, fault)) [[unlikely]] return core.raise(fault);
    return execute(core, op, *thunk, nullptr);
}

Flow run_memory(Core& core, const Op& op) noexcept
{
    const Thunk* thunk = current(op);
    if (thunk == nullptr) [[unlikely]] return run_again(core, op);
    Vector fault{};
    if (!may_run(core, thunk->needs, fault)) [[unlikely]] return core.raise(fault);

    const MemoryOperand& operand = thunk->memory;
    const unsigned size = operand.size;
    // Alignment is checked before anything else about the address: #GP even through SS.
    const std::uint64_t unchecked = core.effective_offset(op) + core.segment_base[op.segment];
    if ((unchecked & (operand.alignment - 1u)) != 0) return core.raise(Vector::GP, 0);
    std::uint64_t linear = 0;
    if (!core.operand_address(op, size, operand.write, linear)) return core.pending_flow();

    if (!operand.write) {
        // Plain RAM in one page is read where it lies: guest pages begin at host pages, so the
        // host sees the same alignment.
        if (std::byte* host = MemoryAccess::read_pointer(core, linear, size)) [[likely]] {
            return execute(core, op, *thunk, host);
        }
        if (core.failed()) return core.pending_flow();
        std::byte* bounce = core.thunks->bounce(linear);
        if (!core.load_bytes(linear, {bounce, size})) return core.pending_flow();
        return execute(core, op, *thunk, bounce);
    }
    std::byte* host = core.write_pointer(linear, size);
    if (host != nullptr) [[likely]] return execute(core, op, *thunk, host);
    if (core.failed()) return core.pending_flow();
    return write_slowly(core, op, *thunk, linear);
}

Flow run_again(Core& core, const Op& op) noexcept
{
    std::array<std::uint8_t, 15> bytes{};
    const std::uint64_t mask = core.code_size == CodeSize::bits64 ? ~std::uint64_t{0} : 0xffffffffu;
    const std::uint64_t linear = (core.state.segments[CS].base + core.rip_of(op)) & mask;
    if (!core.load_bytes(linear, std::as_writable_bytes(std::span{bytes.data(), op.length}))) {
        return core.pending_flow();
    }
    ZydisDecoder decoder;
    switch (core.code_size) {
    case CodeSize::bits64:
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        break;
    case CodeSize::bits32:
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        break;
    case CodeSize::bits16:
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
        break;
    }
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes.data(), op.length, &instruction,
                                             operands))) {
        return core.raise(Vector::UD);
    }
    const Decoded decoded{instruction, {operands, instruction.operand_count},
                          {bytes.data(), instruction.length}, core.code_size, core.rip_of(op)};
    Op fresh = op;
    if (!lower_thunk(decoded, fresh, core)) return core.raise(Vector::UD);
    return fresh.run(core, fresh);
}

}  // namespace doppel::engine::interpret::thunk
