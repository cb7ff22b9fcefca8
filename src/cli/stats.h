// What --stats and `doppel stats` print for people.
#pragma once

#include <string>
#include <string_view>

#include "vm/vm.h"

namespace doppel::cli {

// One "name value" line per number, each with `prefix`.
std::string stats_text(const vm::VmStats& stats, std::string_view prefix);

}  // namespace doppel::cli
