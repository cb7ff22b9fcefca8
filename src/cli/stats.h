// What --stats prints.
#pragma once

#include <string>

#include "vm/vm.h"

namespace doppel::cli {

// One "name value" line per number, for people.
std::string stats_text(const vm::VmStats& stats);
// One line: {"engine": ..., "wall_seconds": ..., "instructions": number or null,
// "instructions_per_second": number or null, "counters": {"exits.halt": ...}}.
std::string stats_json(const vm::VmStats& stats);

}  // namespace doppel::cli
