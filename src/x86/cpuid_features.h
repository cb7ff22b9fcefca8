// Which CPUID feature bits the policy offers, word by word. SDM volume 2, CPUID, tables 3-8
// to 3-21; AMD64 APM volume 3 appendix E. For cpuid.cpp.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace doppel::x86::features {

constexpr std::uint32_t bits(std::initializer_list<unsigned> positions)
{
    std::uint32_t value = 0;
    for (const unsigned position : positions) value |= 1u << position;
    return value;
}

// Two kinds of features. `emulated` ones are honoured by our own code whatever the host
// is. `native` ones are instructions that run on the host's processor, or that are plain
// on any, and are offered when the host has them.
struct FeatureWord {
    std::uint32_t native;
    std::uint32_t emulated;
    [[nodiscard]] std::uint32_t offer(std::uint32_t host) const { return (host & native) | emulated; }
};

// SSE3 PCLMULQDQ SSSE3 FMA CMPXCHG16B SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND;
// PCID x2APIC TSC-deadline, hypervisor present. Not: MONITOR, DS-CPL, VMX, SMX, EIST, TM2,
// PDCM, DCA, SDBG.
inline constexpr FeatureWord leaf1_ecx{bits({0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30}),
                                bits({17, 21, 24, 31})};
// SEP, CLFSH, MMX, FXSR, SSE, SSE2, SS, CX8, CMOV, FPU; DE PSE TSC MSR PAE MCE APIC MTRR PGE MCA
// PAT PSE-36. Not: VME, PSN, DS, ACPI, TM, PBE. HTT depends on the number of vCPUs.
inline constexpr FeatureWord leaf1_edx{bits({0, 8, 15, 19, 23, 24, 25, 26, 27}),
                                bits({2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 16, 17})};
// BMI1 FDP_EXCPTN_ONLY AVX2 BMI2 no-FCS/FDS AVX512F DQ RDSEED ADX IFMA CLFLUSHOPT CLWB CD SHA BW VL;
// FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP. Not: SGX, HLE, RTM, MPX, RDT, PT.
inline constexpr FeatureWord leaf7_ebx{
    bits({3, 5, 6, 8, 13, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31}), bits({0, 1, 7, 9, 10, 20})};
// AVX512_VBMI VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ; UMIP RDPID. Not: PKU, WAITPKG,
// CET, LA57, KL, bus lock, MOVDIR64B and ENQCMD (two memory operands), SGX_LC, PKS.
inline constexpr FeatureWord leaf7_ecx{bits({1, 6, 8, 9, 10, 11, 12, 14}), bits({2, 22})};
// VP2INTERSECT AVX512_FP16; FSRM, SERIALIZE, IBRS/IBPB, ARCH_CAPABILITIES. Not: UINTR, TSXLDTRK, PCONFIG, LBR,
// CET, AMX.
inline constexpr FeatureWord leaf7_edx{bits({8, 14, 23}), bits({4, 26, 29})};
// AVX_VNNI AVX512_BF16, fast short REP MOVSB, STOSB, CMPSB.
inline constexpr FeatureWord leaf7_1_eax{bits({4, 5, 10, 11, 12}), 0};
// MCDT_NO; BHI_CTRL: BHI_DIS_S in IA32_SPEC_CTRL, without which Linux clears the branch history
// by hand at each system call.
inline constexpr FeatureWord leaf7_2_edx{bits({5}), bits({4})};
// LZCNT, PREFETCHW; LAHF in 64-bit mode.
inline constexpr FeatureWord extended_ecx{bits({5, 8}), bits({0})};
// SYSCALL NX 1-GiB pages RDTSCP long mode.
inline constexpr FeatureWord extended_edx{0, bits({11, 20, 26, 27, 29})};
// Leaf 1 bits that AMD repeats in 0x80000001 EDX.
inline constexpr std::uint32_t amd_repeated_edx = 0x0183f3ff;

// What needs an XCR0 component to be usable.
inline constexpr std::uint32_t avx_leaf1_ecx = bits({12, 28, 29});
inline constexpr std::uint32_t avx_leaf7_ebx = bits({5});
inline constexpr std::uint32_t avx_leaf7_ecx = bits({9, 10});
inline constexpr std::uint32_t avx_leaf7_1_eax = bits({4});
inline constexpr std::uint32_t avx512_leaf7_ebx = bits({16, 17, 21, 28, 30, 31});
inline constexpr std::uint32_t avx512_leaf7_ecx = bits({1, 6, 11, 12, 14});
inline constexpr std::uint32_t avx512_leaf7_edx = bits({8, 23});
inline constexpr std::uint32_t avx512_leaf7_1_eax = bits({5});

}  // namespace doppel::x86::features
