// One logger for the whole process, on stderr, through spdlog. Guests must not be able
// to flood it: anything a guest can cause repeatedly goes through log_limited().
#pragma once

#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdint>

namespace doppel::base {

// Sets pattern, sink (stderr) and level ("error", "warn", "info", "debug", "trace").
void set_up_logging(const char* level);

// True for the first `limit` calls on one counter.
inline bool log_limited(std::atomic<std::uint32_t>& counter, std::uint32_t limit = 8)
{
    return counter.fetch_add(1, std::memory_order_relaxed) < limit;
}

}  // namespace doppel::base
