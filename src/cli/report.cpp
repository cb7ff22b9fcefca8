#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "cli/command.h"

namespace doppel::cli {

namespace {

bool stdout_open = true;

// False with errno set when the reader is gone or the disk is full.
bool write_all(int descriptor, std::string_view text)
{
    while (!text.empty()) {
        const ssize_t written = ::write(descriptor, text.data(), text.size());
        if (written < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

int status_of(base::ErrorKind kind)
{
    switch (kind) {
        case base::ErrorKind::usage:
        case base::ErrorKind::io: return exit_usage;
        case base::ErrorKind::host: return exit_host;
        case base::ErrorKind::guest: return exit_guest;
    }
    return exit_usage;
}

}  // namespace

int print(std::string_view text)
{
    if (!stdout_open) {
        return fail(base::usage_error(
            "Standard output is closed, so there is nowhere to print to; leave it open or redirect it"));
    }
    if (!write_all(STDOUT_FILENO, text)) {
        return fail(base::io_error(std::string{"Cannot write to standard output: "} +
                                   std::strerror(errno) + "; redirect it somewhere else"));
    }
    return exit_ok;
}

int fail(const base::Error& error)
{
    std::string line = "doppel: " + error.text();
    for (char& c : line) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) c = '?';
    }
    line += '\n';
    static_cast<void>(write_all(STDERR_FILENO, line));  // nobody is left to tell
    return status_of(error.kind());
}

void secure_standard_descriptors()
{
    for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(descriptor, F_GETFD) >= 0) continue;
        if (descriptor == STDOUT_FILENO) stdout_open = false;
        // Takes the lowest free number, which is this one: the ones below are open by now.
        static_cast<void>(::open("/dev/null", O_RDWR));
    }
}

bool stdout_is_open()
{
    return stdout_open;
}

}  // namespace doppel::cli
