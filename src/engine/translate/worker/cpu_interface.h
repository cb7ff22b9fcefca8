// What the worker's main loop knows of its vCPU.
#pragma once

#include <memory>

#include "base/result.h"
#include "engine/translate/link/doorbell_table.h"
#include "engine/translate/link/mailbox.h"
#include "engine/translate/worker/siblings.h"
#include "engine/translate/worker/vmm_link.h"
#include "engine/translate/worker/worker_clock.h"
#include "memory/guest_memory.h"
#include "x86/cpuid.h"

namespace doppel::engine::translate {

// All of them outlive the vCPU.
struct WorkerResources {
    memory::GuestMemory& memory;
    WorkerClock& clock;
    const x86::CpuidPolicy& cpuid;
    Mailbox& mailbox;
    VmmLink& link;
    const DoorbellTable& doorbells;
    Siblings& siblings;
    unsigned index = 0;           // of the vCPU
    std::uint64_t lock_step = 0;  // Setup::lock_step
};

// Threads: the vCPU thread alone.
class CpuInterface {
public:
    virtual ~CpuInterface() = default;
    // Does what is asked and answers it through the link. Not Request::exit.
    virtual void handle(Request request) = 0;
};

// Called before the sandbox is entered: what needs files, processes or handlers is done here.
base::Result<std::unique_ptr<CpuInterface>> create_cpu(const WorkerResources& resources);

}  // namespace doppel::engine::translate
