#include "engine/kvm/cpuid.h"

#include <algorithm>
#include <functional>
#include <iterator>

#include "x86/paravirt.h"

namespace doppel::engine::kvm {

namespace {

using x86::CpuidEntry;
using x86::CpuidResult;

constexpr std::uint32_t hypervisor_leaf = 0x40000000, features_leaf = 0x40000001,
                        own_leaf = 0x40000100, last_hypervisor_leaf = 0x400001ff;
// What the other engines offer, and KVM's first clock.
namespace feature = x86::paravirt::feature;
constexpr std::uint32_t KVM_FEATURE_CLOCKSOURCE = 1u << 0;
constexpr std::uint32_t passed_features =
    KVM_FEATURE_CLOCKSOURCE | feature::CLOCKSOURCE2 | feature::STEAL_TIME | feature::PV_EOI |
    feature::PV_UNHALT | feature::PV_TLB_FLUSH | feature::PV_SEND_IPI | feature::PV_SCHED_YIELD |
    feature::CLOCKSOURCE_STABLE_BIT;
constexpr std::uint32_t leaf1_ecx_xsave = 1u << 26;

const kvm_cpuid_entry2* find(const CpuidList& list, std::uint32_t leaf, std::uint32_t subleaf)
{
    for (std::uint32_t i = 0; i < std::min(list.count, CpuidList::capacity); ++i) {
        const kvm_cpuid_entry2& entry = list.entries[i];
        const bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
        if (entry.function == leaf && (!indexed || entry.index == subleaf)) return &entry;
    }
    return nullptr;
}

CpuidResult supported_at(const CpuidList& list, std::uint32_t leaf, std::uint32_t subleaf)
{
    const kvm_cpuid_entry2* entry = find(list, leaf, subleaf);
    if (entry == nullptr) return {};
    return {entry->eax, entry->ebx, entry->ecx, entry->edx};
}

void reduce(CpuidEntry& entry, const CpuidResult& host)
{
    CpuidResult& r = entry.result;
    switch (entry.leaf) {
    case 1:
        r.ecx &= host.ecx;
        r.edx &= host.edx;
        break;
    case 7:
        r.ebx &= host.ebx;
        r.ecx &= host.ecx;
        r.edx &= host.edx;
        if (entry.subleaf != 0) r.eax &= host.eax;
        break;
    case 0xd:
        // Subleaf 0 has the mask of components, 1 has instructions; sizes stay as they are.
        if (entry.subleaf <= 1) r.eax &= host.eax;
        break;
    case 0x80000001:
        r.ecx &= host.ecx;
        r.edx &= host.edx;
        break;
    case 0x80000007:
        r.edx &= host.edx;
        break;
    case 0x80000008:
        r.eax = (r.eax & ~0xffu) | std::min(r.eax & 0xff, host.eax & 0xff);
        break;
    default:
        break;
    }
}

}  // namespace

x86::CpuidPolicy filter_cpuid(const x86::CpuidPolicy& policy, const CpuidList& supported)
{
    const bool xsave = (supported_at(supported, 1, 0).ecx & leaf1_ecx_xsave) != 0;
    const std::uint32_t features =
        supported_at(supported, features_leaf, 0).eax & passed_features;
    std::vector<CpuidEntry> entries;
    for (CpuidEntry entry : policy.entries()) {
        if (entry.leaf == 0xd && !xsave) continue;
        // The paravirtual interface is KVM's to offer.
        if (entry.leaf >= hypervisor_leaf && entry.leaf < own_leaf) continue;
        if (entry.leaf >= own_leaf && entry.leaf <= last_hypervisor_leaf) {
            if (features == 0) {
                if (entry.leaf == own_leaf) entry.result.eax -= own_leaf - hypervisor_leaf;
                entry.leaf -= own_leaf - hypervisor_leaf;
            }
        } else {
            reduce(entry, supported_at(supported, entry.leaf, entry.subleaf));
        }
        entries.push_back(entry);
    }
    if (features != 0) {
        // "KVMKVMKVM" in EBX ECX EDX.
        entries.push_back({hypervisor_leaf, 0, false, {features_leaf, 0x4b4d564b, 0x564b4d56, 0x4d}});
        entries.push_back({features_leaf, 0, false, {features, 0, 0, 0}});
    }
    return x86::CpuidPolicy::from_entries(std::move(entries));
}

x86::CpuidPolicy completion_cpuid(const x86::CpuidPolicy& policy, const x86::CpuidPolicy& filtered)
{
    const auto is_hypervisor_leaf = [](const CpuidEntry& entry) {
        return entry.leaf >= hypervisor_leaf && entry.leaf <= last_hypervisor_leaf;
    };
    std::vector<CpuidEntry> entries;
    std::copy_if(policy.entries().begin(), policy.entries().end(), std::back_inserter(entries),
                 std::not_fn(is_hypervisor_leaf));
    std::copy_if(filtered.entries().begin(), filtered.entries().end(), std::back_inserter(entries),
                 is_hypervisor_leaf);
    return x86::CpuidPolicy::from_entries(std::move(entries));
}

base::Result<CpuidList> supported_cpuid(int kvm_fd)
{
    CpuidList list;
    TRY(checked("KVM_GET_SUPPORTED_CPUID", kvm_fd, request::GET_SUPPORTED_CPUID, &list));
    return list;
}

CpuidList to_kvm(const x86::CpuidPolicy& policy, unsigned apic_id)
{
    CpuidList list;
    list.count = 0;
    for (const CpuidEntry& entry : policy.entries()) {
        if (list.count == CpuidList::capacity) break;
        kvm_cpuid_entry2& to = list.entries[list.count++];
        to.function = entry.leaf;
        to.index = entry.subleaf;
        to.flags = entry.has_subleaves ? static_cast<std::uint32_t>(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) : 0u;
        to.eax = entry.result.eax;
        to.ebx = entry.result.ebx;
        to.ecx = entry.result.ecx;
        to.edx = entry.result.edx;
        // APIC IDs; the rest of what changes at run time is KVM's.
        if (entry.leaf == 1) to.ebx = (to.ebx & 0x00ffffff) | (apic_id << 24);
        if (entry.leaf == 0xb || entry.leaf == 0x1f) to.edx = apic_id;
    }
    return list;
}

}  // namespace doppel::engine::kvm
