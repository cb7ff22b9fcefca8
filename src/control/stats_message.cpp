#include "control/stats_message.h"

#include <algorithm>
#include <boost/json.hpp>

namespace doppel::control {

namespace {

std::string printable(std::string_view text)
{
    std::string result{text};
    std::replace_if(result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    return result;
}

vm::VmStats from_object(const boost::json::object& object)
{
    vm::VmStats stats;
    stats.engine = printable(object.at("engine").as_string());
    stats.wall_seconds = object.at("wall_seconds").to_number<double>();
    if (const auto& count = object.at("instructions"); !count.is_null()) {
        stats.instructions = count.to_number<std::uint64_t>();
    }
    for (const auto& [name, value] : object.at("counters").as_object()) {
        stats.counters.add(printable(name), value.to_number<std::uint64_t>());
    }
    return stats;
}

}  // namespace

std::optional<double> instructions_per_second(const vm::VmStats& stats)
{
    if (!stats.instructions || stats.wall_seconds <= 0) return std::nullopt;
    return static_cast<double>(*stats.instructions) / stats.wall_seconds;
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
    if (const auto rate = instructions_per_second(stats)) object["instructions_per_second"] = *rate;
    object["counters"] = std::move(counters);
    return boost::json::serialize(object) + "\n";
}

base::Result<vm::VmStats> parse_stats(std::string_view json)
{
    try {
        const boost::json::object object = boost::json::parse(json).as_object();
        if (const auto* error = object.if_contains("error")) {
            return base::host_error("The VM says: " + printable(error->as_string()));
        }
        return from_object(object);
    } catch (const std::exception&) {
        return base::host_error("The VM's answer is not understood; is it of another version of doppel?");
    }
}

}  // namespace doppel::control
