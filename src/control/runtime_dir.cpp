#include "control/runtime_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>

namespace doppel::control {

namespace {

constexpr std::string_view suffix = ".sock";

std::string parent()
{
    const char* const named = std::getenv("XDG_RUNTIME_DIR");
    if (named != nullptr && named[0] == '/') return named;
    const std::string of_user = "/run/user/" + std::to_string(::geteuid());
    struct stat status {};
    const bool there = ::stat(of_user.c_str(), &status) == 0;
    return !there && ::geteuid() == 0 ? "/run" : of_user;
}

}  // namespace

base::Result<std::string> runtime_dir(Missing missing)
{
    std::string dir = parent() + "/doppel";
    if (missing == Missing::create && ::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) {
        return base::errno_error(base::ErrorKind::host, "Cannot make " + dir, errno);
    }
    struct stat status {};
    if (::lstat(dir.c_str(), &status) != 0 && errno == ENOENT) {
        return base::host_error("No VM of this user can be asked: " + dir +
                                " does not exist; 'doppel run' makes it where it may");
    }
    if (::lstat(dir.c_str(), &status) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot use " + dir, errno);
    }
    // Whoever else can write there could answer in a VM's place.
    if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 077) != 0) {
        return base::host_error("Cannot use " + dir + ": it is not a folder of this user's alone");
    }
    return dir;
}

std::string socket_path(const std::string& dir, pid_t pid)
{
    return dir + "/" + std::to_string(pid) + std::string{suffix};
}

std::vector<pid_t> sockets_in(const std::string& dir)
{
    std::vector<pid_t> pids;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
        const std::string name = entry.path().filename().string();
        if (!name.ends_with(suffix)) continue;
        const char* const end = name.data() + name.size() - suffix.size();
        pid_t pid = 0;
        const auto parsed = std::from_chars(name.data(), end, pid);
        if (parsed.ec == std::errc{} && parsed.ptr == end && pid > 0) pids.push_back(pid);
    }
    std::sort(pids.begin(), pids.end());
    return pids;
}

}  // namespace doppel::control
