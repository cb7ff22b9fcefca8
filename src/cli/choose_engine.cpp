#include "cli/choose_engine.h"

namespace doppel::cli {

EngineChoice choose_engine(const Host& host)
{
    using enum engine::EngineKind;
    using Kind = engine::KvmProbe::Kind;
    switch (host.kvm.kind) {
        case Kind::hardware: return {kvm, "the fastest here, /dev/kvm with hardware support"};
        case Kind::emulated:
            // Every exit and every guest page table costs more there than interpreting does:
            // Linux takes minutes to boot under such a KVM.
            return {interpret, "the fastest here, since this host's /dev/kvm has no hardware "
                               "support and is slower"};
        case Kind::missing: break;
    }
    return {interpret, "works everywhere; /dev/kvm cannot be used here: " + host.kvm.problem};
}

}  // namespace doppel::cli
