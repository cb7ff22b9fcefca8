// The command line of `doppel run`.
#pragma once

#include "base/result.h"
#include "cli/command.h"
#include "vm/vm_config.h"

namespace doppel::cli {

struct RunRequest {
    bool help = false;  // nothing else was looked at
    vm::VmConfig config;
};

// Checks everything that the command line alone decides; usage errors name the option,
// what was found and what to do.
base::Result<RunRequest> parse_run(const Arguments& arguments);

}  // namespace doppel::cli
