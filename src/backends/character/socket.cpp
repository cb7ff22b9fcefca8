#include "backends/character/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace doppel::backends {
namespace {

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
    const base::Fd probe{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
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

SocketBackend::SocketBackend(base::EventLoop& loop, std::string path, base::Fd listener)
    : loop_(loop),
      path_(std::move(path)),
      listener_(std::move(listener)),
      output_(std::make_shared<OutputPump>(loop)),
      input_(std::make_shared<InputPump>(loop))
{
}

base::Result<std::unique_ptr<SocketBackend>> SocketBackend::create(base::EventLoop& loop,
                                                                   const std::string& path)
{
    const std::string what = "--console socket:" + path;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return base::usage_error("--console socket:PATH: the path has " +
                                 std::to_string(path.size()) + " bytes; a socket's has at most " +
                                 std::to_string(sizeof address.sun_path - 1) +
                                 ", choose a shorter one");
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    TRY(clear_path(address, what));
    base::Fd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!listener.valid() || ::bind(listener.get(), as_generic(address), sizeof address) != 0 ||
        ::listen(listener.get(), 4) != 0) {
        return base::errno_error(base::ErrorKind::io, what + ": cannot listen", errno);
    }
    std::unique_ptr<SocketBackend> backend{new SocketBackend{loop, path, std::move(listener)}};
    auto* raw = backend.get();
    backend->output_->set_failed_callback([raw](int) { raw->drop_client(); });
    backend->input_->set_end_callback([raw] { raw->end_of_input(); });
    struct stat status {};
    if (::lstat(address.sun_path, &status) == 0) {
        backend->device_ = status.st_dev;
        backend->inode_ = status.st_ino;
    }
    TRY(loop.add(backend->listener_.get(), EPOLLIN, [raw](std::uint32_t) { raw->accept_client(); }));
    return backend;
}

SocketBackend::~SocketBackend()
{
    loop_.remove(listener_.get());
    input_->set_input_callback({});
    output_->set_writable_callback({});
    output_->set_failed_callback({});
    output_->flush();
    drop_client();
    struct stat status {};
    if (::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
        status.st_ino == inode_) {
        ::unlink(path_.c_str());
    }
}

void SocketBackend::accept_client()
{
    base::Fd client{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (client_.valid() && client_hung_up()) drop_client();
    if (!client.valid() || client_.valid()) return;
    base::Fd duplicate{::fcntl(client.get(), F_DUPFD_CLOEXEC, 3)};
    if (!duplicate.valid()) return;
    client_ = std::move(client);
    output_->attach(std::move(duplicate));
    input_->attach(client_.get());
}

bool SocketBackend::client_hung_up() const
{
    pollfd state{client_.get(), 0, 0};
    return ::poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

// The client that only stopped sending is dropped when output fails, or for the next one.
void SocketBackend::end_of_input()
{
    if (client_hung_up()) drop_client();
}

void SocketBackend::drop_client()
{
    input_->detach();
    output_->detach();
    client_.reset();
}

void SocketBackend::set_input_callback(std::function<void()> callback)
{
    input_->set_input_callback(std::move(callback));
}

void SocketBackend::set_writable_callback(std::function<void()> callback)
{
    output_->set_writable_callback(std::move(callback));
}

}  // namespace doppel::backends
