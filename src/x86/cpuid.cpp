#include "x86/cpuid.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "x86/cpu_state.h"
#include "x86/cpuid_features.h"
#include "x86/lapic/lapic.h"
#include "x86/paravirt.h"
#include "x86/registers.h"

namespace doppel::x86 {

using namespace features;

namespace {

constexpr std::uint32_t max_basic_leaf = 0x1f, hypervisor_first = 0x40000000,
    paravirt_features = 0x40000001, hypervisor_last = 0x40000010, own_first = 0x40000100,
    own_last = 0x40000110, extended_first = 0x80000000, extended_last = 0x80000008;
constexpr std::uint32_t leaf1_ecx_xsave = 1u << 26, leaf1_ecx_osxsave = 1u << 27,
    leaf1_edx_apic = 1u << 9, leaf1_edx_htt = 1u << 28;
constexpr std::uint64_t apic_base_enable = 1u << 11;

struct Component {
    unsigned index;
    std::uint32_t size;
    std::uint32_t offset;  // standard format
};
constexpr std::array<Component, 4> components{{
    {2, 256, xsave_offset_avx},
    {5, 64, xsave_offset_opmask},
    {6, 512, xsave_offset_zmm_hi256},
    {7, 1024, xsave_offset_hi16_zmm},
}};
constexpr std::uint32_t xsave_legacy_size = 576;  // legacy region and header

std::uint32_t standard_size(std::uint64_t mask)
{
    std::uint32_t size = xsave_legacy_size;
    for (const Component& c : components) {
        if ((mask >> c.index & 1) != 0) size = std::max(size, c.offset + c.size);
    }
    return size;
}

// No component of ours asks for 64-byte alignment, so they follow each other.
std::uint32_t compacted_size(std::uint64_t mask)
{
    std::uint32_t size = xsave_legacy_size;
    for (const Component& c : components) {
        if ((mask >> c.index & 1) != 0) size += c.size;
    }
    return size;
}

// The host's components, as far as they lie where CpuState has them: not every processor
// leaves the gap that MPX once filled, and state moves between the area and the host.
std::uint64_t usable_xcr0(const HostCpuid& host, std::uint32_t max_leaf)
{
    if ((host.query(1, 0).ecx & leaf1_ecx_xsave) == 0 || max_leaf < 0xd) return 0;
    const std::uint64_t offered = host.query(0xd, 0).eax & xcr0::SUPPORTED;
    std::uint64_t mask = xcr0::X87 | xcr0::SSE;
    for (const Component& c : components) {
        const CpuidResult layout = host.query(0xd, c.index);
        if ((offered >> c.index & 1) != 0 && layout.eax == c.size && layout.ebx == c.offset) {
            mask |= std::uint64_t{1} << c.index;
        }
    }
    constexpr std::uint64_t avx512 = xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
    if ((mask & xcr0::AVX) == 0 || (mask & avx512) != avx512) mask &= ~avx512;
    return mask;
}

// Leaf 0x15: TSC = crystal * numerator / denominator. Linux computes that in kHz and in 32
// bits, and takes the crystal for the APIC timer's clock, too. So the ratio is the best one
// for a crystal of apic_bus_hz whose product stays in range, and the crystal is then bent,
// by some ten parts in a million at the most, until the TSC is right to half a part.
constexpr std::uint32_t max_numerator = 4294;
struct Ratio {
    std::uint32_t numerator = 0, denominator = 0, crystal_hz = 0;
};
Ratio tsc_ratio(std::uint64_t tsc_hz)
{
    const double target = static_cast<double>(tsc_hz) / static_cast<double>(apic_bus_hz);
    Ratio best;
    double best_error = 1e300;
    if (tsc_hz < 1'000'000 || tsc_hz > 1'000'000'000'000) return best;
    for (std::uint32_t numerator = 1; numerator <= max_numerator; ++numerator) {
        const double denominator = std::max(1.0, std::round(numerator / target));
        const double error = std::abs(numerator / denominator / target - 1);
        if (error < best_error * (1 - 1e-6) && error < best_error - 1e-12) {
            const double crystal = static_cast<double>(tsc_hz) * denominator / numerator;
            best = {numerator, static_cast<std::uint32_t>(denominator),
                    static_cast<std::uint32_t>(std::round(crystal / 1000)) * 1000};
            best_error = error;
        }
    }
    // Nothing comes near for a TSC beyond all reason; say nothing rather than something wrong.
    return best_error < 1e-4 ? best : Ratio{};
}

std::uint32_t ceil_log2(unsigned value)
{
    return value <= 1 ? 0 : static_cast<std::uint32_t>(std::bit_width(value - 1));
}

class ThisHost final : public HostCpuid {
public:
    [[nodiscard]] CpuidResult query(std::uint32_t leaf, std::uint32_t subleaf) const override
    {
        CpuidResult r;
        if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
        return r;
    }
};

class Builder {
public:
    Builder(const HostCpuid& host, unsigned vcpus, std::uint64_t tsc_hz)
        : host_(host), vcpus_(std::max(1u, vcpus)), tsc_hz_(tsc_hz)
    {
        const CpuidResult zero = host.query(0, 0);
        max_host_leaf_ = zero.eax;
        vendor_ = {max_basic_leaf, zero.ebx, zero.ecx, zero.edx};
        max_host_extended_ = host.query(extended_first, 0).eax;
        xcr0_ = usable_xcr0(host, max_host_leaf_);
        const std::uint32_t host_bits = extended(extended_last).eax & 0xff;
        // Linux and KVM both know 36 as the width of processors that do not say.
        physical_bits_ = std::clamp(host_bits == 0 ? 36u : host_bits, 32u, 46u);
    }

    std::vector<CpuidEntry> build()
    {
        basic_leaves();
        cache_leaf();
        feature_leaves();
        topology_leaves();
        xsave_leaves();
        frequency_leaves();
        hypervisor_leaves();
        extended_leaves();
        return std::move(entries_);
    }

    [[nodiscard]] std::uint64_t xcr0() const { return xcr0_; }
    [[nodiscard]] unsigned physical_bits() const { return physical_bits_; }

private:
    void add(std::uint32_t leaf, const CpuidResult& result)
    {
        entries_.push_back({leaf, 0, false, result});
    }
    void add_sub(std::uint32_t leaf, std::uint32_t subleaf, const CpuidResult& result)
    {
        entries_.push_back({leaf, subleaf, true, result});
    }
    [[nodiscard]] CpuidResult basic(std::uint32_t leaf, std::uint32_t subleaf = 0) const
    {
        return leaf <= max_host_leaf_ ? host_.query(leaf, subleaf) : CpuidResult{};
    }
    [[nodiscard]] CpuidResult extended(std::uint32_t leaf) const
    {
        return leaf <= max_host_extended_ ? host_.query(leaf, 0) : CpuidResult{};
    }
    [[nodiscard]] bool amd() const
    {
        // "AuthenticAMD" and "HygonGenuine"
        return vendor_.ebx == 0x68747541 || vendor_.ebx == 0x6f677948;
    }
    [[nodiscard]] bool avx() const { return (xcr0_ & xcr0::AVX) != 0; }
    [[nodiscard]] bool avx512() const { return (xcr0_ & xcr0::OPMASK) != 0; }

    void basic_leaves()
    {
        add(0, vendor_);
        const CpuidResult host = basic(1);
        CpuidResult r;
        r.eax = host.eax & 0x0fff3fff;
        const std::uint32_t logical = vcpus_ > 1 ? std::bit_ceil(vcpus_) & 0xff : 1;
        r.ebx = (host.ebx & 0xff) | (8u << 8) | (logical << 16);  // CLFLUSH: 8 * 8 bytes
        r.ecx = leaf1_ecx.offer(host.ecx);
        if (xcr0_ == 0) r.ecx &= ~leaf1_ecx_xsave;
        if (!avx()) r.ecx &= ~avx_leaf1_ecx;
        r.edx = leaf1_edx.offer(host.edx);
        if (vcpus_ > 1) r.edx |= leaf1_edx_htt;
        leaf1_edx_ = r.edx;
        add(1, r);
        // Descriptor FF: see leaf 4; F0: 64-byte prefetch.
        if (!amd()) add(2, {0x00feff01, 0x000000f0, 0, 0});
    }

    // The host's caches, shared as if each vCPU were a core of one package.
    void cache_leaf()
    {
        if (amd()) return;
        const std::uint32_t cores = std::bit_ceil(vcpus_);
        std::uint32_t count = 0;
        for (std::uint32_t i = 0; i < 8; ++i) {
            CpuidResult r = basic(4, i);
            if ((r.eax & 0x1f) == 0) break;
            const std::uint32_t level = (r.eax >> 5) & 7;
            const std::uint32_t sharing = level >= 3 ? std::min(cores - 1, 0xfffu) : 0;
            r.eax = (r.eax & 0x3ff) | (sharing << 14) | (std::min(cores - 1, 0x3fu) << 26);
            add_sub(4, i, r);
            ++count;
        }
        add_sub(4, count, {});
    }

    void feature_leaves()
    {
        add(6, {1u << 2, 0, 0, 0});  // ARAT: the APIC timer never stops
        const CpuidResult host = basic(7, 0);
        const CpuidResult host1 = host.eax >= 1 ? basic(7, 1) : CpuidResult{};
        const CpuidResult host2 = host.eax >= 2 ? basic(7, 2) : CpuidResult{};
        CpuidResult r0, r1, r2;
        r0.ebx = leaf7_ebx.offer(host.ebx);
        r0.ecx = leaf7_ecx.offer(host.ecx);
        r0.edx = leaf7_edx.offer(host.edx);
        r1.eax = leaf7_1_eax.offer(host1.eax);
        r2.edx = leaf7_2_edx.offer(host2.edx);
        if (!avx()) {
            r0.ebx &= ~avx_leaf7_ebx;
            r0.ecx &= ~avx_leaf7_ecx;
            r1.eax &= ~avx_leaf7_1_eax;
        }
        if (!avx512()) {
            r0.ebx &= ~avx512_leaf7_ebx;
            r0.ecx &= ~avx512_leaf7_ecx;
            r0.edx &= ~avx512_leaf7_edx;
            r1.eax &= ~avx512_leaf7_1_eax;
        }
        r0.eax = 2;  // highest subleaf
        add_sub(7, 0, r0);
        add_sub(7, 1, r1);
        add_sub(7, 2, r2);
    }

    // One thread per core, one package. EDX is the x2APIC ID: query() fills it in.
    void topology_leaves()
    {
        for (const std::uint32_t leaf : {0xbu, 0x1fu}) {
            add_sub(leaf, 0, {0, 1, 1u << 8, 0});
            add_sub(leaf, 1, {ceil_log2(vcpus_), vcpus_ & 0xffff, (2u << 8) | 1, 0});
            add_sub(leaf, 2, {0, 0, 2, 0});
        }
    }

    void xsave_leaves()
    {
        if (xcr0_ == 0) return;
        const auto mask = static_cast<std::uint32_t>(xcr0_);
        add_sub(0xd, 0, {mask, standard_size(xcr0::X87), standard_size(xcr0_), 0});
        // XSAVEOPT, XSAVEC, XGETBV with ECX = 1. Not XSAVES.
        add_sub(0xd, 1, {bits({0, 1, 2}), compacted_size(xcr0::X87), 0, 0});
        for (const Component& c : components) {
            if ((xcr0_ >> c.index & 1) != 0) add_sub(0xd, c.index, {c.size, c.offset, 0, 0});
        }
    }

    void frequency_leaves()
    {
        const Ratio ratio = tsc_ratio(tsc_hz_);
        if (ratio.numerator == 0) return;
        add(0x15, {ratio.denominator, ratio.numerator, ratio.crystal_hz, 0});
        const auto mhz = static_cast<std::uint32_t>(std::min<std::uint64_t>(
            (tsc_hz_ + 500'000) / 1'000'000, 0xffff));
        add(0x16, {mhz, mhz, 100, 0});
    }

    // KVM's interface comes first, since guests look for it there; the frequency leaf has the
    // layout of KVM and VMware. Our own name is where guests look next.
    void hypervisor_leaves()
    {
        namespace feature = paravirt::feature;
        const CpuidResult frequencies{static_cast<std::uint32_t>(tsc_hz_ / 1000),
                                      static_cast<std::uint32_t>(apic_bus_hz / 1000), 0, 0};
        // "KVMKVMKVM" and "doppel", padded with zeros, in EBX ECX EDX.
        add(hypervisor_first, {hypervisor_last, 0x4b4d564b, 0x564b4d56, 0x4d});
        add(paravirt_features, {feature::NOP_IO_DELAY | feature::CLOCKSOURCE2 | feature::STEAL_TIME |
                                    feature::PV_EOI | feature::PV_UNHALT |
                                    feature::PV_TLB_FLUSH | feature::PV_SEND_IPI |
                                    feature::PV_SCHED_YIELD | feature::CLOCKSOURCE_STABLE_BIT,
                                0, 0, 0});
        add(hypervisor_last, frequencies);
        add(own_first, {own_last, 0x70706f64, 0x00006c65, 0});
        add(own_last, frequencies);
    }

    void extended_leaves()
    {
        CpuidResult first{extended_last, 0, 0, 0};
        if (amd()) first = {extended_last, vendor_.ebx, vendor_.ecx, vendor_.edx};
        add(extended_first, first);
        const CpuidResult host = extended(0x80000001);
        CpuidResult features;
        if (amd()) features.eax = host.eax;
        features.ecx = extended_ecx.offer(host.ecx);
        features.edx = extended_edx.offer(host.edx);
        if (amd()) features.edx |= leaf1_edx_ & amd_repeated_edx;
        add(0x80000001, features);
        for (std::uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf) add(leaf, extended(leaf));
        if (amd()) add(0x80000005, extended(0x80000005));
        add(0x80000006, extended(0x80000006));
        add(0x80000007, {0, 0, 0, 1u << 8});  // invariant TSC
        const std::uint32_t cores = amd() ? (vcpus_ - 1) & 0xff : 0;
        add(0x80000008, {physical_bits_ | (48u << 8), 0, cores, 0});
    }

    const HostCpuid& host_;
    unsigned vcpus_;
    std::uint64_t tsc_hz_;
    CpuidResult vendor_;
    std::uint32_t max_host_leaf_ = 0, max_host_extended_ = 0;
    std::uint32_t leaf1_edx_ = 0;
    std::uint64_t xcr0_ = 0;
    unsigned physical_bits_ = 0;
    std::vector<CpuidEntry> entries_;
};

const CpuidEntry* find(const std::vector<CpuidEntry>& entries, std::uint32_t leaf,
                       std::uint32_t subleaf)
{
    for (const CpuidEntry& entry : entries) {
        if (entry.leaf == leaf && (!entry.has_subleaves || entry.subleaf == subleaf)) return &entry;
    }
    return nullptr;
}

std::uint64_t cr4_bits(const CpuidPolicy& policy)
{
    std::uint64_t mask = cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::MCE | cr4::PGE | cr4::PCE |
                         cr4::OSFXSR | cr4::OSXMMEXCPT;
    if (policy.has(1, 0, 'c', 26)) mask |= cr4::OSXSAVE;
    if (policy.has(1, 0, 'c', 17)) mask |= cr4::PCIDE;
    if (policy.has(7, 0, 'b', 0)) mask |= cr4::FSGSBASE;
    if (policy.has(7, 0, 'b', 7)) mask |= cr4::SMEP;
    if (policy.has(7, 0, 'b', 20)) mask |= cr4::SMAP;
    if (policy.has(7, 0, 'c', 2)) mask |= cr4::UMIP;
    return mask;
}

}  // namespace

const HostCpuid& this_host()
{
    static const ThisHost host;
    return host;
}

CpuidPolicy CpuidPolicy::create(const HostCpuid& host, unsigned vcpus, std::uint64_t tsc_hz)
{
    Builder builder{host, vcpus, tsc_hz};
    CpuidPolicy policy;
    policy.entries_ = builder.build();
    policy.xcr0_mask_ = builder.xcr0();
    policy.physical_address_bits_ = builder.physical_bits();
    policy.cr4_mask_ = cr4_bits(policy);
    return policy;
}

CpuidPolicy CpuidPolicy::from_entries(std::vector<CpuidEntry> entries)
{
    CpuidPolicy policy;
    policy.entries_ = std::move(entries);
    if (const CpuidEntry* xsave = find(policy.entries_, 0xd, 0); xsave != nullptr) {
        policy.xcr0_mask_ = xsave->result.eax & xcr0::SUPPORTED;
    }
    const CpuidEntry* sizes = find(policy.entries_, extended_last, 0);
    policy.physical_address_bits_ = sizes == nullptr ? 36 : sizes->result.eax & 0xff;
    policy.cr4_mask_ = cr4_bits(policy);
    return policy;
}

bool CpuidPolicy::has(std::uint32_t leaf, std::uint32_t subleaf, char reg, unsigned bit) const
{
    const CpuidEntry* entry = find(entries_, leaf, subleaf);
    if (entry == nullptr || bit > 31) return false;
    const CpuidResult& r = entry->result;
    const std::uint32_t value = reg == 'a' ? r.eax : reg == 'b' ? r.ebx : reg == 'c' ? r.ecx : r.edx;
    return (value >> bit & 1) != 0;
}

CpuidResult CpuidPolicy::query(std::uint32_t leaf, std::uint32_t subleaf,
                               const CpuidInputs& inputs) const
{
    const bool hypervisor = leaf >> 28 == hypervisor_first >> 28;
    const bool in_range = leaf <= max_basic_leaf || hypervisor ||
                          (leaf >= extended_first && leaf <= extended_last);
    if (!in_range) {
        // Intel answers with the highest basic leaf, AMD with zeros (SDM volume 2, CPUID).
        const std::uint32_t vendor = entries_.front().result.ebx;
        if (vendor == 0x68747541 || vendor == 0x6f677948) return {};
        leaf = max_basic_leaf;
    }
    const CpuidEntry* entry = find(entries_, leaf, subleaf);
    CpuidResult r = entry == nullptr ? CpuidResult{} : entry->result;
    switch (leaf) {
    case 1:
        r.ebx = (r.ebx & 0x00ffffff) | (inputs.apic_id << 24);
        if ((inputs.cr4 & cr4::OSXSAVE) != 0) r.ecx |= leaf1_ecx_osxsave;
        if ((inputs.apic_base & apic_base_enable) == 0) r.edx &= ~leaf1_edx_apic;
        break;
    case 0xb:
    case 0x1f:
        // Levels past the last are invalid: the level number comes back, and the ID.
        if (entry == nullptr) r.ecx = subleaf & 0xff;
        r.edx = inputs.apic_id;
        break;
    case 0xd:
        if (entry == nullptr) break;
        if (subleaf == 0) r.ebx = standard_size(inputs.xcr0 & xcr0_mask_);
        if (subleaf == 1) r.ebx = compacted_size(inputs.xcr0 & xcr0_mask_);
        break;
    case 0x80000001:
        if ((inputs.apic_base & apic_base_enable) == 0) r.edx &= ~leaf1_edx_apic;
        break;
    default:
        break;
    }
    return r;
}

}  // namespace doppel::x86
