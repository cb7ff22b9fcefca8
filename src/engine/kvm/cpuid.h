// The CPUID policy as far as this host's KVM can honour it.
#pragma once

#include "base/result.h"
#include "engine/kvm/api.h"
#include "x86/cpuid.h"

namespace doppel::engine::kvm {

// Feature leaves are reduced to what KVM_GET_SUPPORTED_CPUID offers. KVM's own leaves
// (0x40000000 and 0x40000001, with the features that the other engines offer) replace the policy's where KVM
// offers them; else the policy's own leaves move from 0x40000100 to 0x40000000.
x86::CpuidPolicy filter_cpuid(const x86::CpuidPolicy& policy, const CpuidList& supported);

// What instructions that KVM gave up on are completed by, where KVM is software: such KVMs
// let the guest see the host's own feature leaves whatever they are told. The policy as it
// was, with the hypervisor leaves of the filtered one.
x86::CpuidPolicy completion_cpuid(const x86::CpuidPolicy& policy, const x86::CpuidPolicy& filtered);

base::Result<CpuidList> supported_cpuid(int kvm_fd);
CpuidList to_kvm(const x86::CpuidPolicy& policy, unsigned apic_id);

}  // namespace doppel::engine::kvm
