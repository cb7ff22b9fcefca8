// What CPUID tells the guest. One table per VM, the same for every engine: host features
// that the engine can honour, our signature, and nothing that is not honoured.
// SDM volume 2, CPUID.
#pragma once

#include <cstdint>
#include <vector>

namespace doppel::x86 {

struct CpuidResult {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
    bool operator==(const CpuidResult&) const = default;
};

struct CpuidEntry {
    std::uint32_t leaf = 0;
    std::uint32_t subleaf = 0;
    bool has_subleaves = false;
    CpuidResult result;
};

// State that CPUID reflects at run time.
struct CpuidInputs {
    std::uint64_t cr4 = 0;        // OSXSAVE
    std::uint64_t xcr0 = 0;       // leaf 0xd sizes
    std::uint64_t apic_base = 0;  // APIC enabled
    std::uint32_t apic_id = 0;
};

// Runs CPUID on the host; injected so that a test can describe another host.
class HostCpuid {
public:
    virtual ~HostCpuid() = default;
    [[nodiscard]] virtual CpuidResult query(std::uint32_t leaf, std::uint32_t subleaf) const = 0;
};
const HostCpuid& this_host();

// IA32_ARCH_CAPABILITIES of a guest whose every instruction is interpreted or run alone in
// a thunk: no guest instruction stream reaches the processor's speculation, so the guest
// may skip its mitigations. RDCL_NO IBRS_ALL SKIP_L1DFL_VMENTRY SSB_NO MDS_NO
// IF_PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO PBRSB_NO GDS_NO RFDS_NO ITS_NO.
inline constexpr std::uint64_t arch_capabilities_interpreted =
    (1u << 0) | (1u << 1) | (1u << 3) | (1u << 4) | (1u << 5) | (1u << 6) | (1u << 8) | (1u << 13) |
    (1u << 14) | (1u << 15) | (1u << 20) | (1u << 24) | (1u << 26) | (1u << 27) |
    (std::uint64_t{1} << 62);

class CpuidPolicy {
public:
    // tsc_hz goes into leaf 0x15 and the hypervisor leaves 0x40000010 and 0x40000110. Leaf
    // 0x40000001 promises what x86/paravirt.h describes.
    static CpuidPolicy create(const HostCpuid& host, unsigned vcpus, std::uint64_t tsc_hz);
    // Another policy's entries, reduced by an engine that can honour less; leaf 0 first.
    static CpuidPolicy from_entries(std::vector<CpuidEntry> entries);

    // Architecturally exact, out-of-range leaves included (on Intel they read as the highest
    // basic). Never fails: unknown leaves are zero.
    [[nodiscard]] CpuidResult query(std::uint32_t leaf, std::uint32_t subleaf,
                                    const CpuidInputs& inputs) const;
    // As at reset: what CpuidInputs decides has its power-up value, APIC IDs are zero.
    [[nodiscard]] const std::vector<CpuidEntry>& entries() const { return entries_; }
    // Feature bits by position, for engines that must know: e.g. has(7, 0, 'b', 20) is SMAP.
    [[nodiscard]] bool has(std::uint32_t leaf, std::uint32_t subleaf, char reg, unsigned bit) const;
    // XCR0 bits the guest may set: within xcr0::SUPPORTED and the host's.
    [[nodiscard]] std::uint64_t xcr0_mask() const { return xcr0_mask_; }
    [[nodiscard]] unsigned physical_address_bits() const { return physical_address_bits_; }
    // CR4 bits that the features offered allow; others fault with #GP.
    [[nodiscard]] std::uint64_t cr4_mask() const { return cr4_mask_; }

private:
    std::vector<CpuidEntry> entries_;
    std::uint64_t xcr0_mask_ = 0;
    std::uint64_t cr4_mask_ = 0;
    unsigned physical_address_bits_ = 0;
};

}  // namespace doppel::x86
