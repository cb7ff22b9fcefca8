// `doppel image`: hands the rest to one of its commands.
#include "cli/image_commands.h"

namespace doppel::cli {

int image_command(const Arguments& arguments)
{
    static constexpr const char* commands =
        "; the commands are create, info, check, convert, resize and debian";
    if (arguments.empty()) {
        return fail(base::usage_error(std::string{"image: no command given"} + commands));
    }
    const std::string& command = arguments.front();
    const Arguments rest{arguments.begin() + 1, arguments.end()};
    if (command == "create") return image_create(rest);
    if (command == "info") return image_info(rest);
    if (command == "check") return image_check(rest);
    if (command == "convert") return image_convert(rest);
    if (command == "resize") return image_resize(rest);
    if (command == "debian") return image_debian(rest);
    if (command == "help" || command == "--help" || command == "-h") return print(image_help);
    return fail(base::usage_error("image: there is no command '" + command + "'" + commands));
}

}  // namespace doppel::cli
