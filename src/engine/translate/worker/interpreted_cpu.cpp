// A worker whose vCPU is interpreted throughout.
#include "engine/translate/worker/virtual_cpu.h"

namespace doppel::engine::translate {

base::Result<std::unique_ptr<CpuInterface>> create_cpu(const WorkerResources& resources)
{
    auto cpu = std::make_unique<VirtualCpu>(resources);
    TRY(cpu->initialise());
    return std::unique_ptr<CpuInterface>{std::move(cpu)};
}

}  // namespace doppel::engine::translate
