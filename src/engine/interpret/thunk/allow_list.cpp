#include "engine/interpret/thunk/allow_list.h"

#include <array>

namespace doppel::engine::interpret::thunk {

namespace {

enum class Feature : std::uint8_t {
#define FEATURE(name, leaf, subleaf, reg, bit) name,
#include "engine/interpret/thunk/allow_list.inc"
};

struct FeatureBit {
    std::uint32_t leaf, subleaf;
    char reg;
    unsigned bit;
};

constexpr FeatureBit feature_bits[] = {
#define FEATURE(name, leaf, subleaf, reg, bit) {leaf, subleaf, reg, bit},
#include "engine/interpret/thunk/allow_list.inc"
};

struct Row {
    ZydisISASet isa_set;
    Feature first, second;
};

constexpr Row rows[] = {
#define ALLOW(isa_set, first, second) {ZYDIS_ISA_SET_##isa_set, Feature::first, Feature::second},
#include "engine/interpret/thunk/allow_list.inc"
};

bool host_has(const FeatureBit& wanted)
{
    const x86::HostCpuid& host = x86::this_host();
    const std::uint32_t highest = host.query(wanted.leaf & 0x80000000u, 0).eax;
    if (wanted.leaf > highest) return false;
    const x86::CpuidResult result = host.query(wanted.leaf, wanted.subleaf);
    const std::uint32_t value = wanted.reg == 'a'   ? result.eax
                                : wanted.reg == 'b' ? result.ebx
                                : wanted.reg == 'c' ? result.ecx
                                                    : result.edx;
    return ((value >> wanted.bit) & 1) != 0;
}

// CPUID is slow where it is intercepted, and the host does not change: asked once.
const std::array<bool, std::size(feature_bits)>& host_features()
{
    static const auto features = [] {
        std::array<bool, std::size(feature_bits)> found{};
        for (std::size_t i = 0; i < found.size(); ++i) {
            found[i] = i == 0 || host_has(feature_bits[i]);
        }
        return found;
    }();
    return features;
}

bool has(const x86::CpuidPolicy& cpuid, Feature feature)
{
    if (feature == Feature::ALWAYS) return true;
    const auto index = static_cast<std::size_t>(feature);
    const FeatureBit& bit = feature_bits[index];
    return host_features()[index] && cpuid.has(bit.leaf, bit.subleaf, bit.reg, bit.bit);
}

std::uint64_t host_xcr0()
{
    static const std::uint64_t value = [] {
        if ((x86::this_host().query(1, 0).ecx & (1u << 27)) == 0) return std::uint64_t{0};
        std::uint32_t low = 0, high = 0;
        // SAFETY: OSXSAVE is set, so XGETBV with ECX 0 is defined and has no side effect.
        asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (std::uint64_t{high} << 32) | low;
    }();
    return value;
}

bool mnemonic_by_hand(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    // Host MXCSR and upper halves.
    case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR: case ZYDIS_MNEMONIC_VSTMXCSR:
    case ZYDIS_MNEMONIC_VZEROALL: case ZYDIS_MNEMONIC_VZEROUPPER:
    // Memory at a register, byte by byte.
    case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MOVDIR64B:
    // Ordering only.
    case ZYDIS_MNEMONIC_LFENCE: case ZYDIS_MNEMONIC_MFENCE: case ZYDIS_MNEMONIC_SFENCE:
        return true;
    default:
        return false;
    }
}

// Zydis counts system instructions among the Pentium Pro's: only the compares are allowed.
bool is_x87_compare(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_FCOMI || mnemonic == ZYDIS_MNEMONIC_FCOMIP ||
           mnemonic == ZYDIS_MNEMONIC_FUCOMI || mnemonic == ZYDIS_MNEMONIC_FUCOMIP;
}

bool isa_by_hand(ZydisISASet isa_set)
{
    switch (isa_set) {
    case ZYDIS_ISA_SET_FXSAVE: case ZYDIS_ISA_SET_FXSAVE64: case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEOPT: case ZYDIS_ISA_SET_XSAVEC: case ZYDIS_ISA_SET_XSAVES:
    case ZYDIS_ISA_SET_SSEMXCSR:
        return true;
    default:
        return false;
    }
}

}  // namespace

bool host_has_avx512()
{
    constexpr std::uint64_t needed = 0xe6;
    return (host_xcr0() & needed) == needed &&
           host_features()[static_cast<std::size_t>(Feature::AVX512BW)];
}

Verdict judge(const ZydisDecodedInstruction& instruction, const x86::CpuidPolicy& cpuid)
{
    for (const Row& row : rows) {
        if (row.isa_set != instruction.meta.isa_set) continue;
        if (!has(cpuid, row.first) || !has(cpuid, row.second)) return Verdict::forbidden;
        if (row.isa_set == ZYDIS_ISA_SET_PPRO && !is_x87_compare(instruction.mnemonic)) {
            return Verdict::forbidden;
        }
        switch (instruction.mnemonic) {
        // XSAVE's ISA set holds the instructions about XCR0 itself: those are the system's.
        case ZYDIS_MNEMONIC_XGETBV: case ZYDIS_MNEMONIC_XSETBV:
            return Verdict::forbidden;
        case ZYDIS_MNEMONIC_MOVDIRI:
            return has(cpuid, Feature::MOVDIRI) ? Verdict::native : Verdict::forbidden;
        case ZYDIS_MNEMONIC_MOVDIR64B:
            return has(cpuid, Feature::MOVDIR64B) ? Verdict::by_hand : Verdict::forbidden;
        default:
            break;
        }
        if (isa_by_hand(row.isa_set) || mnemonic_by_hand(instruction.mnemonic)) {
            return Verdict::by_hand;
        }
        const bool wide = instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
                          instruction.meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX;
        if (wide && !host_has_avx512()) return Verdict::forbidden;
        if (instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && (host_xcr0() & 6) != 6) {
            return Verdict::forbidden;
        }
        return Verdict::native;
    }
    return Verdict::forbidden;
}

}  // namespace doppel::engine::interpret::thunk
