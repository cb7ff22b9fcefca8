#include "cli/stats.h"

#include <fmt/format.h>

#include "control/stats_message.h"

namespace doppel::cli {

std::string stats_text(const vm::VmStats& stats, std::string_view prefix)
{
    std::string text;
    const auto line = [&](std::string_view name, std::string_view value) {
        text += fmt::format("{}{:<28} {}\n", prefix, name, value);
    };
    line("engine", stats.engine);
    line("wall time", fmt::format("{:.3f} s", stats.wall_seconds));
    line("guest instructions", stats.instructions ? std::to_string(*stats.instructions)
                                                  : "not counted by this engine");
    if (const auto rate = control::instructions_per_second(stats)) {
        line("million instructions/second", fmt::format("{:.1f}", *rate / 1e6));
    }
    for (const auto& [name, value] : stats.counters.values()) line(name, std::to_string(value));
    return text;
}

}  // namespace doppel::cli
