#include "engine/translate/vmm/doorbells.h"

namespace doppel::engine::translate {

base::Result<DoorbellEvents> WorkerDoorbells::events()
{
    TRY(open_all());
    DoorbellEvents events{};
    for (unsigned i = 0; i < doorbell_count; ++i) events[i] = event(i);
    return events;
}

void WorkerDoorbells::attach(DoorbellTable& table)
{
    const auto guard = lock();
    table_ = &table;
    for (unsigned i = 0; i < doorbell_count; ++i) {
        if (bound_at(i)) write_doorbell(table, i, &*bound_at(i));
    }
}

base::Result<void> WorkerDoorbells::bound(unsigned index, int, const bus::DoorbellAddress& address)
{
    if (table_ != nullptr) write_doorbell(*table_, index, &address);
    return {};
}

void WorkerDoorbells::unbound(unsigned index, int, const bus::DoorbellAddress&) noexcept
{
    if (table_ != nullptr) write_doorbell(*table_, index, nullptr);
}

}  // namespace doppel::engine::translate
