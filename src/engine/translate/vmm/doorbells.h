// The doorbells of a machine whose guest runs in a worker: the eventfds are the worker's from its
// start, where they are bound it reads in the arena, and it rings without asking.
#pragma once

#include <array>

#include "bus/doorbell_set.h"
#include "engine/translate/link/doorbell_table.h"

namespace doppel::engine::translate {

// Descriptors, by index.
using DoorbellEvents = std::array<int, doorbell_count>;

// Threads: any.
class WorkerDoorbells final : public bus::DoorbellSet {
public:
    // Opens all of them.
    base::Result<DoorbellEvents> events();
    // From now on what is bound is written there, too. The table outlives this.
    void attach(DoorbellTable& table);

protected:
    base::Result<void> bound(unsigned index, int event, const bus::DoorbellAddress& address) override;
    void unbound(unsigned index, int event, const bus::DoorbellAddress& address) noexcept override;

private:
    DoorbellTable* table_ = nullptr;  // under the lock
};

}  // namespace doppel::engine::translate
