#include "backends/vhost_user/virtiofsd.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace doppel::backends::vhost_user {

namespace {

// Statuses of a child that did not get as far as virtiofsd.
constexpr int cannot_protect = 124, cannot_execute = 125, orphaned = 126;

std::string find_program()
{
    std::vector<std::string> folders;
    const char* path = std::getenv("PATH");
    std::string_view rest = path != nullptr ? path : "";
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find(':'), rest.size());
        if (end != 0) folders.emplace_back(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    // Where Debian 12, and where Debian 13 and Fedora have it.
    folders.insert(folders.end(), {"/usr/lib/qemu", "/usr/libexec"});
    for (const std::string& folder : folders) {
        std::string program = folder + "/virtiofsd";
        if (::access(program.c_str(), X_OK) == 0) return program;
    }
    return {};
}

}  // namespace

base::Result<std::unique_ptr<Virtiofsd>> Virtiofsd::create(const ShareOptions& options)
{
    std::unique_ptr<Virtiofsd> made{new Virtiofsd{options}};
    struct stat status {};
    if (::stat(options.folder.c_str(), &status) != 0) {
        return base::errno_error(base::ErrorKind::usage, made->name() + ": cannot be shared",
                                 errno);
    }
    if (!S_ISDIR(status.st_mode)) {
        return base::usage_error(made->name() + ": not a folder; name one");
    }
    std::array<char, PATH_MAX> real{};
    if (::realpath(options.folder.c_str(), real.data()) == nullptr) {
        return base::errno_error(base::ErrorKind::usage, made->name() + ": cannot be shared",
                                 errno);
    }
    made->options_.folder = real.data();
    // Characters of virtiofsd's own list of options.
    if (made->options_.folder.find_first_of(",\\") != std::string::npos) {
        return base::usage_error(made->name() + ": virtiofsd takes no path with a comma or a "
                                                "backslash; rename it, or mount it elsewhere");
    }
    made->program_ = find_program();
    if (made->program_.empty()) {
        return base::host_error(made->name() + ": there is no virtiofsd; install the package "
                                               "virtiofsd (Debian 12: qemu-system-common)");
    }
    return made;
}

Virtiofsd::~Virtiofsd() { static_cast<void>(ended()); }

base::Result<base::Fd> Virtiofsd::connect()
{
    static_cast<void>(ended());
    const char* temporary = std::getenv("TMPDIR");
    std::string folder = std::string{temporary != nullptr ? temporary : "/tmp"} + "/doppel-XXXXXX";
    if (::mkdtemp(folder.data()) == nullptr) {
        return base::errno_error(base::ErrorKind::host, name() + ": cannot make a folder for a "
                                                                 "socket", errno);
    }
    base::Fd socket;
    base::Fd listener;
    const auto make = [&]() -> base::Result<void> {
        const UnixListener named = TRY(UnixListener::create(folder + "/fs", name()));
        socket = TRY(connect_unix(folder + "/fs", name()));
        listener = base::Fd{::fcntl(named.fd(), F_DUPFD_CLOEXEC, 3)};
        if (listener.valid()) return {};
        return base::errno_error(base::ErrorKind::host, name() + ": no more descriptors", errno);
    };
    const auto connected = make();
    ::rmdir(folder.c_str());
    TRY(connected);
    // virtiofsd waits for its client there.
    ::fcntl(listener.get(), F_SETFL, ::fcntl(listener.get(), F_GETFL) & ~O_NONBLOCK);

    const std::string fd = "--fd=" + std::to_string(listener.get()),
                      source = "source=" + options_.folder, cache = "cache=" + options_.cache;
    const std::array<const char*, 10> texts{program_.c_str(), "-f",           fd.c_str(),
                                            "-o",             source.c_str(), "-o",
                                            cache.c_str(),    "-o",           "log_level=err",
                                            nullptr};
    std::array<char*, texts.size()> arguments{};
    // SAFETY: execv() does not write to them.
    for (std::size_t i = 0; i < texts.size(); ++i) arguments[i] = const_cast<char*>(texts[i]);
    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child == 0) become(arguments.data(), listener.get(), parent);
    if (child < 0) {
        return base::errno_error(base::ErrorKind::host, name() + ": cannot start virtiofsd",
                                 errno);
    }
    child_ = child;
    return socket;
}

// Between fork() and exec() in a process with threads: system calls and nothing else.
void Virtiofsd::become(char* const* arguments, int listener, pid_t parent) const noexcept
{
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(orphaned);
    // Not of the terminal that Ctrl-C is typed at: it ends when the guest is done with it.
    ::setsid();
    if (options_.read_only) {
        mount_attr attributes{};
        attributes.attr_set = MOUNT_ATTR_RDONLY;
        const char* folder = options_.folder.c_str();
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
            ::mount(folder, folder, nullptr, MS_BIND | MS_REC, nullptr) != 0 ||
            ::syscall(SYS_mount_setattr, AT_FDCWD, folder, AT_RECURSIVE, &attributes,
                      sizeof attributes) != 0) {
            ::_exit(cannot_protect);
        }
    }
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    ::fcntl(listener, F_SETFD, 0);
    ::execv(arguments[0], arguments);
    ::_exit(cannot_execute);
}

std::string Virtiofsd::ended()
{
    if (child_ < 0) return {};
    int status = 0;
    const bool by_itself = ::waitpid(child_, &status, WNOHANG) == child_;
    if (!by_itself) {
        ::kill(child_, SIGKILL);
        ::waitpid(child_, &status, 0);
    }
    child_ = -1;
    if (!by_itself) return {};
    if (WIFSIGNALED(status)) {
        return "virtiofsd was killed by signal " + std::to_string(WTERMSIG(status));
    }
    switch (WEXITSTATUS(status)) {
    case cannot_protect:
        return "the folder cannot be made read-only for it, which needs CAP_SYS_ADMIN";
    case cannot_execute: return program_ + " cannot be executed";
    default:
        return "virtiofsd ended with status " + std::to_string(WEXITSTATUS(status));
    }
}

}  // namespace doppel::backends::vhost_user
