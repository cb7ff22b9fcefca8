#include "engine/interpret/thunk/vector_state.h"

#include <algorithm>

namespace doppel::engine::interpret::thunk {

namespace {

void zero(x86::XsaveArea& area, unsigned offset, unsigned size)
{
    std::memset(area.bytes.data() + offset, 0, size);
}

void write_initial(x86::XsaveArea& area, std::uint64_t components)
{
    using namespace x86;
    if ((components & xcr0::X87) != 0) {
        zero(area, 0, xsave_mxcsr);
        zero(area, xsave_st, 128);
        xsave_set<std::uint16_t>(area, xsave_fcw, fcw_default);
    }
    if ((components & xcr0::SSE) != 0) zero(area, xsave_xmm, 256);
    if ((components & xcr0::AVX) != 0) zero(area, xsave_offset_avx, 256);
    if ((components & xcr0::OPMASK) != 0) zero(area, xsave_offset_opmask, 64);
    if ((components & xcr0::ZMM_HI256) != 0) zero(area, xsave_offset_zmm_hi256, 512);
    if ((components & xcr0::HI16_ZMM) != 0) zero(area, xsave_offset_hi16_zmm, 1024);
}

}  // namespace

void materialise(x86::XsaveArea& area, std::uint64_t components) noexcept
{
    write_initial(area, components);
    xsave_set(area, xsave_header, xstate_bv(area) | components);
}

void initialise(x86::XsaveArea& area, std::uint64_t components) noexcept
{
    write_initial(area, components);
    xsave_set(area, xsave_header, xstate_bv(area) & ~components);
}

void read_vector(const x86::XsaveArea& area, unsigned reg, std::span<std::uint8_t> to) noexcept
{
    const VectorPieces pieces = vector_pieces(reg);
    std::size_t done = 0;
    for (unsigned i = 0; i < pieces.count && done < to.size(); ++i) {
        const std::size_t size = std::min<std::size_t>(pieces.piece[i].size, to.size() - done);
        std::memcpy(to.data() + done, area.bytes.data() + pieces.piece[i].offset, size);
        done += size;
    }
}

void write_vector(x86::XsaveArea& area, unsigned reg, std::span<const std::uint8_t> from) noexcept
{
    const VectorPieces pieces = vector_pieces(reg);
    std::size_t done = 0;
    for (unsigned i = 0; i < pieces.count && done < from.size(); ++i) {
        const std::size_t size = std::min<std::size_t>(pieces.piece[i].size, from.size() - done);
        std::memcpy(area.bytes.data() + pieces.piece[i].offset, from.data() + done, size);
        done += size;
    }
}

}  // namespace doppel::engine::interpret::thunk
