// Where the worker's own memory lies: layout.h's promise to the windows, kept and checked.
#pragma once

#include <string_view>

#include "base/result.h"

namespace doppel::engine::translate {

// `maps`: the text of /proc/self/maps. An error names the first mapping that lies where guest
// memory is to be shown.
base::Result<void> check_address_space(std::string_view maps);
// The same for this process.
base::Result<void> check_own_address_space();

}  // namespace doppel::engine::translate
