// The engines of this binary. In a file of its own: only who calls this links them.
#include "vm/vm.h"

namespace doppel::vm {

EngineFactory engine_factory(engine::EngineKind kind)
{
    switch (kind) {
    case engine::EngineKind::kvm: return engine::create_kvm_engine;
    case engine::EngineKind::interpret: return engine::create_interpret_engine;
    case engine::EngineKind::translate: return engine::create_translate_engine;
    }
    return engine::create_interpret_engine;
}

base::Result<std::unique_ptr<Vm>> Vm::create(const VmConfig& config)
{
    if (!config.engine) {
        return base::usage_error("--engine: none chosen; use kvm, translate or interpret");
    }
    std::vector<EngineFactory> factories{engine_factory(*config.engine)};
    for (const engine::EngineKind kind : config.next_engines) {
        factories.push_back(engine_factory(kind));
    }
    return create(config, factories);
}

}  // namespace doppel::vm
