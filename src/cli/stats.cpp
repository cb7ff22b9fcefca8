#include "cli/stats.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <optional>

namespace doppel::cli {

namespace {

std::optional<double> rate(const vm::VmStats& stats)
{
    if (!stats.instructions || stats.wall_seconds <= 0) return std::nullopt;
    return static_cast<double>(*stats.instructions) / stats.wall_seconds;
}

}  // namespace

std::string stats_text(const vm::VmStats& stats)
{
    std::string text = fmt::format("doppel: engine                       {}\n", stats.engine);
    text += fmt::format("doppel: wall time                    {:.3f} s\n", stats.wall_seconds);
    if (stats.instructions) {
        text += fmt::format("doppel: guest instructions           {}\n", *stats.instructions);
    } else {
        text += "doppel: guest instructions           not counted by this engine\n";
    }
    if (const auto per_second = rate(stats)) {
        text += fmt::format("doppel: million instructions/second  {:.1f}\n", *per_second / 1e6);
    }
    for (const auto& [name, value] : stats.counters.values()) {
        text += fmt::format("doppel: {:<28} {}\n", name, value);
    }
    return text;
}

std::string stats_json(const vm::VmStats& stats)
{
    boost::json::object counters;
    for (const auto& [name, value] : stats.counters.values()) counters[name] = value;
    boost::json::object object;
    object["engine"] = stats.engine;
    object["wall_seconds"] = stats.wall_seconds;
    object["instructions"] = nullptr;
    object["instructions_per_second"] = nullptr;
    if (stats.instructions) object["instructions"] = *stats.instructions;
    if (const auto per_second = rate(stats)) object["instructions_per_second"] = *per_second;
    object["counters"] = std::move(counters);
    return boost::json::serialize(object) + "\n";
}

}  // namespace doppel::cli
