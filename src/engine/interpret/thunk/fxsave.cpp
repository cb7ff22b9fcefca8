// FXSAVE and FXRSTOR. SDM volume 2.
#include "engine/interpret/thunk/legacy_image.h"
#include "engine/interpret/thunk/run.h"

namespace doppel::engine::interpret::thunk {

namespace {

using namespace x86;

constexpr unsigned image_size = 512;

// Address and checks that both share. False: fault is raised.
bool prepare(Core& core, const Op& op, bool write, std::uint64_t& linear, Flow& flow)
{
    if ((core.state.cr0 & (cr0::EM | cr0::TS)) != 0) {
        flow = core.raise(Vector::NM);
        return false;
    }
    if (!core.operand_address(op, image_size, write, linear)) {
        flow = core.pending_flow();
        return false;
    }
    if ((linear & 15) != 0) {
        flow = core.raise(Vector::GP, 0);
        return false;
    }
    return true;
}

Flow run_fxsave(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0;
    Flow flow{};
    if (!prepare(core, op, true, linear, flow)) return flow;
    XsaveArea& area = core.state.xsave;
    ensure_present(area, xcr0::X87 | xcr0::SSE);
    // Bytes above the last XMM register are the program's own and stay as they are.
    const std::size_t size =
        xsave_xmm + std::size_t{16} * visible_xmm(core.code_size == CodeSize::bits64);
    std::array<std::uint8_t, xsave_xmm + 256> image{};
    std::memcpy(image.data(), area.bytes.data(), size);
    xsave_set(area, xsave_mxcsr_mask, mxcsr_supported);
    std::memcpy(image.data() + xsave_mxcsr_mask, area.bytes.data() + xsave_mxcsr_mask, 4);
    if ((op.extra & extra_wide) == 0) narrow_pointers(image.data());
    const bool stored = core.check_write(linear, image_size) &&
                        core.store_bytes(linear, std::as_bytes(std::span{image}.first(size)));
    return stored ? Flow::next : core.pending_flow();
}

Flow run_fxrstor(Core& core, const Op& op) noexcept
{
    std::uint64_t linear = 0;
    Flow flow{};
    if (!prepare(core, op, false, linear, flow)) return flow;
    std::array<std::uint8_t, image_size> image{};
    if (!core.load_bytes(linear, std::as_writable_bytes(std::span{image}))) {
        return core.pending_flow();
    }
    std::uint32_t mxcsr = 0;
    std::memcpy(&mxcsr, image.data() + xsave_mxcsr, sizeof mxcsr);
    if ((mxcsr & ~mxcsr_supported) != 0) return core.raise(Vector::GP, 0);
    if ((op.extra & extra_wide) == 0) narrow_pointers(image.data());
    clear_x87_reserved(image.data());
    XsaveArea& area = core.state.xsave;
    ensure_present(area, xcr0::X87 | xcr0::SSE);
    const std::size_t size =
        xsave_xmm + std::size_t{16} * visible_xmm(core.code_size == CodeSize::bits64);
    std::memcpy(area.bytes.data(), image.data(), size);
    xsave_set(area, xsave_mxcsr_mask, mxcsr_supported);
    return Flow::next;
}

}  // namespace

Handler handler_fxsave(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: return run_fxsave;
    case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64: return run_fxrstor;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret::thunk
