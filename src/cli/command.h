// The commands of `doppel`, one file each, and how they report.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace doppel::cli {

// Exit statuses that scripts depend on; --debug-exit gives any odd one.
enum ExitStatus : int {
    exit_ok = 0,       // the guest powered off
    exit_usage = 2,    // bad usage, a file that cannot be used
    exit_host = 3,     // the host lacks something, named in the message
    exit_guest = 4,    // the guest ended badly
};

// What comes after the command's name.
using Arguments = std::vector<std::string>;

int run_command(const Arguments& arguments);
int stats_command(const Arguments& arguments);
int image_command(const Arguments& arguments);
int doctor_command(const Arguments& arguments);
int version_command(const Arguments& arguments);

extern const std::string_view main_help;
extern const std::string_view run_help;
extern const std::string_view stats_help;
extern const std::string_view doctor_help;

// Text on stdout; exit_ok, or exit_usage after one line on stderr when nobody can read it.
[[nodiscard]] int print(std::string_view text);

// One line on stderr, "doppel: <text>"; control characters in it (a file name may hold
// any) are printed as '?', so that it stays one line. Returns the exit status that the
// error deserves.
int fail(const base::Error& error);

// Makes sure that descriptors 0 to 2 are open, so that no file opened later becomes
// "stdout" by accident. Call first. stdout_is_open() tells what was found.
void secure_standard_descriptors();
[[nodiscard]] bool stdout_is_open();

}  // namespace doppel::cli
