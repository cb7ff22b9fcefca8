#include "backends/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace doppel::backends {
namespace {

base::Fd new_socket()
{
    return base::Fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
}

base::Result<sockaddr_un> address_of(const std::string& path, const std::string& what)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        // Too long to be repeated.
        const std::size_t at = std::min(what.find(path), what.size());
        return base::usage_error(what.substr(0, at) + "PATH: the path has " + std::to_string(path.size()) +
                                 " bytes; a socket's has at most " +
                                 std::to_string(sizeof address.sun_path - 1) +
                                 ", choose a shorter one");
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

// SAFETY: bind() and connect() take every address type through this one; sockaddr_un
// begins with the same sa_family.
const sockaddr* as_generic(const sockaddr_un& address)
{
    return reinterpret_cast<const sockaddr*>(&address);
}

// Removes a socket that its listener has left behind; an error if something else is there.
base::Result<void> clear_path(const sockaddr_un& address, const std::string& what)
{
    struct stat status {};
    if (::lstat(address.sun_path, &status) != 0) return {};
    if (!S_ISSOCK(status.st_mode)) {
        return base::usage_error(what + ": the path exists and is not a socket; remove it or "
                                        "choose another");
    }
    const base::Fd probe = new_socket();
    const bool taken = ::connect(probe.get(), as_generic(address), sizeof address) == 0;
    if (taken || errno == EAGAIN) {
        return base::usage_error(what + ": another process listens there; choose another path");
    }
    if (errno != ECONNREFUSED) {
        return base::errno_error(base::ErrorKind::io, what + ": cannot tell who listens there",
                                 errno);
    }
    if (::unlink(address.sun_path) != 0) {
        return base::errno_error(base::ErrorKind::io,
                                 what + ": cannot remove the socket of an earlier run", errno);
    }
    return {};
}

}  // namespace

base::Result<UnixListener> UnixListener::create(const std::string& path, const std::string& what)
{
    const sockaddr_un address = TRY(address_of(path, what));
    TRY(clear_path(address, what));
    UnixListener listener;
    base::Fd fd = new_socket();
    if (!fd.valid() || ::bind(fd.get(), as_generic(address), sizeof address) != 0 ||
        ::listen(fd.get(), 4) != 0) {
        return base::errno_error(base::ErrorKind::io, what + ": cannot listen", errno);
    }
    listener.fd_ = std::move(fd);
    listener.path_ = path;
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) {
        listener.device_ = status.st_dev;
        listener.inode_ = status.st_ino;
    }
    return listener;
}

UnixListener::~UnixListener()
{
    if (!fd_.valid()) return;
    struct stat status {};
    if (::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
        status.st_ino == inode_) {
        ::unlink(path_.c_str());
    }
}

base::Fd UnixListener::accept() const
{
    return base::Fd{::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
}

base::Result<base::Fd> connect_unix(const std::string& path, const std::string& what)
{
    const sockaddr_un address = TRY(address_of(path, what));
    base::Fd fd = new_socket();
    if (!fd.valid() || ::connect(fd.get(), as_generic(address), sizeof address) != 0) {
        return base::errno_error(base::ErrorKind::io, what + ": cannot connect", errno);
    }
    return fd;
}

}  // namespace doppel::backends
