#include "backends/character/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace doppel::backends {

SocketBackend::SocketBackend(base::EventLoop& loop, UnixListener listener)
    : loop_(loop),
      listener_(std::move(listener)),
      output_(std::make_shared<OutputPump>(loop)),
      input_(std::make_shared<InputPump>(loop))
{
}

base::Result<std::unique_ptr<SocketBackend>> SocketBackend::create(base::EventLoop& loop,
                                                                   const std::string& path)
{
    auto listener = TRY(UnixListener::create(path, "--console socket:" + path));
    std::unique_ptr<SocketBackend> backend{new SocketBackend{loop, std::move(listener)}};
    auto* raw = backend.get();
    backend->output_->set_failed_callback([raw](int) { raw->drop_client(); });
    backend->input_->set_end_callback([raw] { raw->end_of_input(); });
    TRY(loop.add(backend->listener_.fd(), EPOLLIN, [raw](std::uint32_t) { raw->accept_client(); }));
    return backend;
}

SocketBackend::~SocketBackend()
{
    loop_.remove(listener_.fd());
    input_->set_input_callback({});
    output_->set_writable_callback({});
    output_->set_failed_callback({});
    output_->flush();
    drop_client();
}

void SocketBackend::accept_client()
{
    base::Fd client = listener_.accept();
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
