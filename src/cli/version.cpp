#include <string>

#include "cli/command.h"

namespace doppel::cli {

int version_command(const Arguments& arguments)
{
    if (!arguments.empty()) {
        return fail(base::usage_error("version: takes no arguments, found '" + arguments[0] + "'"));
    }
    return print("doppel " DOPPEL_VERSION "\n");
}

}  // namespace doppel::cli
