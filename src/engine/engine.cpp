#include "engine/engine.h"

namespace doppel::engine {

std::string_view name(EngineKind kind)
{
    switch (kind) {
    case EngineKind::kvm: return "kvm";
    case EngineKind::translate: return "translate";
    case EngineKind::interpret: return "interpret";
    }
    return "unknown";
}

base::Result<void> Vcpu::hand_over(HandOver&) noexcept
{
    return base::host_error("This engine cannot hand the guest over to another one");
}

base::Result<void> Vcpu::take_over(const HandOver&) noexcept
{
    return base::host_error("This engine cannot take the guest over from another one");
}

}  // namespace doppel::engine
