// A VM's statistics as one line of JSON: what --stats=json prints and what travels over the
// control socket.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "vm/vm.h"

namespace doppel::control {

// {"engine": ..., "wall_seconds": ..., "instructions": number or null,
// "instructions_per_second": number or null, "counters": {"exits.halt": ...}} and a line feed.
std::string stats_json(const vm::VmStats& stats);
// The same back. Names and text come out fit for a terminal.
base::Result<vm::VmStats> parse_stats(std::string_view json);

// Million instructions and the like: nothing when they are not counted.
std::optional<double> instructions_per_second(const vm::VmStats& stats);

}  // namespace doppel::control
