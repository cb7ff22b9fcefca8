// doppel: finds the command and hands the rest of the command line to it.
#include <csignal>
#include <exception>
#include <string>

#include "base/log.h"
#include "cli/command.h"
#include "cli/image_commands.h"

namespace doppel::cli {

namespace {

int help_command(const Arguments& arguments)
{
    if (arguments.empty()) return print(main_help);
    if (arguments.size() > 1) {
        return fail(base::usage_error("help: takes one command, found '" + arguments[1] +
                                      "' after '" + arguments[0] + "'"));
    }
    if (arguments[0] == "run") return print(run_help);
    if (arguments[0] == "stats") return print(stats_help);
    if (arguments[0] == "image") return print(image_help);
    if (arguments[0] == "doctor") return print(doctor_help);
    if (arguments[0] == "version" || arguments[0] == "help") return print(main_help);
    return fail(base::usage_error("help: there is no command '" + arguments[0] +
                                  "'; the commands are run, stats, image, doctor, version and help"));
}

int dispatch(const Arguments& arguments)
{
    if (arguments.empty()) {
        return fail(base::usage_error("No command given; try 'doppel run --kernel FILE', "
                                      "'doppel doctor' or 'doppel --help'"));
    }
    const std::string& command = arguments.front();
    const Arguments rest{arguments.begin() + 1, arguments.end()};
    if (command == "run") return run_command(rest);
    if (command == "stats") return stats_command(rest);
    if (command == "image") return image_command(rest);
    if (command == "doctor") return doctor_command(rest);
    if (command == "version" || command == "--version" || command == "-V") {
        return version_command(rest);
    }
    if (command == "help" || command == "--help" || command == "-h") return help_command(rest);
    const char* kind = command.starts_with('-') ? "Unknown option '" : "Unknown command '";
    return fail(base::usage_error(kind + command +
                                  "'; the commands are run, stats, image, doctor, version and help"));
}

}  // namespace

}  // namespace doppel::cli

int main(int argc, char** argv)
{
    using namespace doppel;
    cli::secure_standard_descriptors();
    base::set_up_logging("warn");
    // A reader that went away is an error of the write, not the end of the process.
    static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
    try {
        return cli::dispatch(argc > 0 ? cli::Arguments(argv + 1, argv + argc) : cli::Arguments{});
    } catch (const std::exception& exception) {
        return cli::fail(base::host_error(std::string{"Gave up: "} + exception.what()));
    }
}
