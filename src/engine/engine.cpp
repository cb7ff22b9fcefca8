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

}  // namespace doppel::engine
