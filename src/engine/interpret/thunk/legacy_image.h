// The legacy region of FXSAVE and XSAVE images (SDM volume 1 section 10.5.1), in both of
// its forms: with REX.W the x87 pointers are 64-bit offsets, without they are a 32-bit
// offset and a selector, which reads as zero on processors that deprecate FCS and FDS.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret::thunk {

inline constexpr unsigned legacy_x87_size = 24;  // FCW ... FDP; MXCSR follows

inline void narrow_pointers(std::uint8_t* image)
{
    std::memset(image + xsave_fip + 4, 0, 4);
    std::memset(image + xsave_fdp + 4, 0, 4);
}

// XMM registers that exist in the current mode.
inline unsigned visible_xmm(bool long_mode) { return long_mode ? 16 : 8; }

// Reserved bits of ST registers and the tag word, as a load leaves them.
inline void clear_x87_reserved(std::uint8_t* image)
{
    image[xsave_ftw + 1] = 0;
    for (unsigned i = 0; i < 8; ++i) std::memset(image + xsave_st + 16 * i + 10, 0, 6);
}

}  // namespace doppel::engine::interpret::thunk
