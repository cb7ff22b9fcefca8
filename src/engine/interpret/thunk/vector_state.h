// The guest's extended state as it lies in CpuState::xsave: registers by number, and
// components that are in their initial configuration brought into memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "x86/cpu_state.h"

namespace doppel::engine::interpret::thunk {

inline constexpr unsigned xsave_fcw = 0, xsave_fsw = 2, xsave_ftw = 4, xsave_fop = 6, xsave_fip = 8,
    xsave_fdp = 16, xsave_mxcsr = 24, xsave_mxcsr_mask = 28, xsave_st = 32, xsave_xmm = 160,
    xsave_header = 512;
inline constexpr std::uint32_t mxcsr_default = 0x1f80, mxcsr_supported = 0xffff;
inline constexpr std::uint16_t fcw_default = 0x37f;

template <typename T>
T xsave_get(const x86::XsaveArea& area, unsigned offset)
{
    T value;
    std::memcpy(&value, area.bytes.data() + offset, sizeof value);
    return value;
}
template <typename T>
void xsave_set(x86::XsaveArea& area, unsigned offset, T value)
{
    std::memcpy(area.bytes.data() + offset, &value, sizeof value);
}

inline std::uint64_t xstate_bv(const x86::XsaveArea& area)
{
    return xsave_get<std::uint64_t>(area, xsave_header);
}

// Writes the initial configuration of the given components to memory and marks them as
// present. SDM volume 1 section 13.6.
void materialise(x86::XsaveArea& area, std::uint64_t components) noexcept;
// Puts components into their initial configuration (memory of the region: zeros).
void initialise(x86::XsaveArea& area, std::uint64_t components) noexcept;

inline void ensure_present(x86::XsaveArea& area, std::uint64_t components)
{
    const std::uint64_t missing = components & ~xstate_bv(area);
    if (missing != 0) [[unlikely]] materialise(area, missing);
}

// Pieces of vector register `reg` in memory, lowest bits first.
struct VectorPiece {
    unsigned offset, size;
};
struct VectorPieces {
    VectorPiece piece[3];
    unsigned count;
};
constexpr VectorPieces vector_pieces(unsigned reg)
{
    if (reg >= 16) return {{{x86::xsave_offset_hi16_zmm + 64 * (reg - 16), 64}, {}, {}}, 1};
    return {{{xsave_xmm + 16 * reg, 16},
             {x86::xsave_offset_avx + 16 * reg, 16},
             {x86::xsave_offset_zmm_hi256 + 32 * reg, 32}},
            3};
}
// Components must be present. `to` up to 64 bytes.
void read_vector(const x86::XsaveArea& area, unsigned reg, std::span<std::uint8_t> to) noexcept;
void write_vector(x86::XsaveArea& area, unsigned reg, std::span<const std::uint8_t> from) noexcept;

inline std::uint64_t read_opmask(const x86::XsaveArea& area, unsigned reg)
{
    return xsave_get<std::uint64_t>(area, x86::xsave_offset_opmask + 8 * reg);
}

// An unmasked x87 exception waits to be reported (the FSW.ES bit, as the CPU computes it).
inline bool x87_pending(const x86::XsaveArea& area)
{
    if ((xstate_bv(area) & x86::xcr0::X87) == 0) return false;
    const auto fcw = xsave_get<std::uint16_t>(area, xsave_fcw);
    const auto fsw = xsave_get<std::uint16_t>(area, xsave_fsw);
    return (fsw & static_cast<unsigned>(~fcw) & 0x3f) != 0;
}

}  // namespace doppel::engine::interpret::thunk
