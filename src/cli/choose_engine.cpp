#include "cli/choose_engine.h"

#include <fmt/format.h>

namespace doppel::cli {

namespace {

// Why not kvm.
std::string without_kvm(const engine::KvmProbe& kvm)
{
    // Every exit and every guest page table costs more there than interpreting does: Linux takes
    // minutes to boot under such a KVM.
    return kvm.kind == engine::KvmProbe::Kind::emulated
               ? "this host's /dev/kvm has no hardware support and is slower"
               : "/dev/kvm cannot be used here: " + kvm.problem;
}

}  // namespace

EngineChoice choose_engine(const Host& host)
{
    using enum engine::EngineKind;
    if (host.kvm.kind == engine::KvmProbe::Kind::hardware) {
        return {kvm, "the fastest here, /dev/kvm with hardware support"};
    }
    if (host.translate_problem.empty()) {
        return {translate, "the fastest here; " + without_kvm(host.kvm)};
    }
    return {interpret, fmt::format("works everywhere; {}; translate does not work here: {}",
                                   without_kvm(host.kvm), host.translate_problem)};
}

}  // namespace doppel::cli
