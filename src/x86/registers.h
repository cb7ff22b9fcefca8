// Names and bits of control registers, RFLAGS and exceptions. SDM volume 1 section 3.4,
// volume 3 sections 2.5 and 6.3.
#pragma once

#include <cstdint>

namespace doppel::x86 {

// Encoding order of ModRM and REX.
enum Gpr : std::uint8_t { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum SegmentRegister : std::uint8_t { ES, CS, SS, DS, FS, GS };

namespace rflags {
inline constexpr std::uint64_t CF = 1u << 0, RESERVED1 = 1u << 1, PF = 1u << 2, AF = 1u << 4,
    ZF = 1u << 6, SF = 1u << 7, TF = 1u << 8, IF = 1u << 9, DF = 1u << 10, OF = 1u << 11,
    IOPL = 3u << 12, NT = 1u << 14, RF = 1u << 16, VM = 1u << 17, AC = 1u << 18, VIF = 1u << 19,
    VIP = 1u << 20, ID = 1u << 21;
inline constexpr std::uint64_t STATUS = CF | PF | AF | ZF | SF | OF;
}  // namespace rflags

namespace cr0 {
inline constexpr std::uint64_t PE = 1u << 0, MP = 1u << 1, EM = 1u << 2, TS = 1u << 3, ET = 1u << 4,
    NE = 1u << 5, WP = 1u << 16, AM = 1u << 18, NW = 1u << 29, CD = 1u << 30, PG = 1u << 31;
}

namespace cr4 {
inline constexpr std::uint64_t VME = 1u << 0, PVI = 1u << 1, TSD = 1u << 2, DE = 1u << 3,
    PSE = 1u << 4, PAE = 1u << 5, MCE = 1u << 6, PGE = 1u << 7, PCE = 1u << 8, OSFXSR = 1u << 9,
    OSXMMEXCPT = 1u << 10, UMIP = 1u << 11, LA57 = 1u << 12, VMXE = 1u << 13, SMXE = 1u << 14,
    FSGSBASE = 1u << 16, PCIDE = 1u << 17, OSXSAVE = 1u << 18, SMEP = 1u << 20, SMAP = 1u << 21,
    PKE = 1u << 22;
}

namespace efer {
inline constexpr std::uint64_t SCE = 1u << 0, LME = 1u << 8, LMA = 1u << 10, NXE = 1u << 11;
}

namespace xcr0 {
inline constexpr std::uint64_t X87 = 1u << 0, SSE = 1u << 1, AVX = 1u << 2, OPMASK = 1u << 5,
    ZMM_HI256 = 1u << 6, HI16_ZMM = 1u << 7;
inline constexpr std::uint64_t SUPPORTED = X87 | SSE | AVX | OPMASK | ZMM_HI256 | HI16_ZMM;
}

namespace dr6 {
inline constexpr std::uint64_t BD = 1u << 13, BS = 1u << 14, BT = 1u << 15, FIXED = 0xffff0ff0;
}
namespace dr7 {
inline constexpr std::uint64_t ENABLE_MASK = 0xff, GD = 1u << 13, FIXED = 0x400;
}

namespace page_fault {
inline constexpr std::uint32_t P = 1u << 0, W = 1u << 1, U = 1u << 2, RSVD = 1u << 3, I = 1u << 4;
}

// SDM volume 3 table 6-1.
enum class Vector : std::uint8_t {
    DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11,
    SS = 12, GP = 13, PF = 14, MF = 16, AC = 17, MC = 18, XM = 19,
};

}  // namespace doppel::x86
