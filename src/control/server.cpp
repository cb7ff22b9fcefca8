#include "control/server.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "control/stats_message.h"
#include "control/unix_socket.h"

namespace doppel::control {

namespace {

base::Fd stream_socket()
{
    return base::Fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
}

bool somebody_listens(const sockaddr_un& address)
{
    const base::Fd probe = stream_socket();
    return ::connect(probe.get(), as_generic(address), sizeof address) == 0 || errno == EAGAIN;
}

}  // namespace

Server::Server(base::EventLoop& loop, std::string path, base::Fd listener, StatsSource stats)
    : loop_(loop), path_(std::move(path)), listener_(std::move(listener)), stats_(std::move(stats))
{
}

base::Result<std::unique_ptr<Server>> Server::create(base::EventLoop& loop, std::string path,
                                                     StatsSource stats)
{
    // It gets its name when it listens: before that it looks like one left behind.
    const std::string before = path + ".new";
    const auto address = unix_address(before), final_address = unix_address(path);
    if (!address || !final_address) return base::host_error("Cannot listen at " + path + ": the path is too long");
    if (somebody_listens(*final_address)) {
        return base::host_error("Cannot listen at " + path + ": another process does");
    }
    ::unlink(before.c_str());
    base::Fd listener = stream_socket();
    if (!listener.valid() || ::bind(listener.get(), as_generic(*address), sizeof *address) != 0 ||
        ::listen(listener.get(), 4) != 0 || ::rename(before.c_str(), path.c_str()) != 0) {
        const int error = errno;
        ::unlink(before.c_str());
        return base::errno_error(base::ErrorKind::host, "Cannot listen at " + path, error);
    }
    std::unique_ptr<Server> server{
        new Server{loop, std::move(path), std::move(listener), std::move(stats)}};
    TRY(loop.add(server->listener_.get(), EPOLLIN,
                 [raw = server.get()](std::uint32_t) { raw->accept_clients(); }));
    return server;
}

Server::~Server()
{
    *self_ = nullptr;
    loop_.remove(listener_.get());
    for (const auto& [number, client] : clients_) loop_.remove(client->fd.get());
    ::unlink(path_.c_str());
}

void Server::accept_clients()
{
    base::Fd fd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (!fd.valid() || clients_.size() >= clients_max) return;
    const int number = next_number_++;
    auto client = std::make_shared<Client>();
    client->fd = std::move(fd);
    const auto added = loop_.add(client->fd.get(), EPOLLIN,
                                 [this, number](std::uint32_t events) { on_client(number, events); });
    if (added) clients_.emplace(number, std::move(client));
}

void Server::on_client(int number, std::uint32_t events)
{
    const auto found = clients_.find(number);
    if (found == clients_.end()) return;
    const std::shared_ptr<Client> client = found->second;
    const bool gone = (events & (EPOLLERR | EPOLLHUP)) != 0 ||
                      ((events & EPOLLIN) != 0 && !read_some(*client)) || !write_some(*client);
    if (gone) return drop(number);
    serve(number);
}

bool Server::read_some(Client& client)
{
    std::array<char, request_max> bytes{};
    const ssize_t size = ::read(client.fd.get(), bytes.data(), bytes.size());
    if (size <= 0) return size < 0 && (errno == EAGAIN || errno == EINTR);
    client.input.append(bytes.data(), static_cast<std::size_t>(size));
    return client.input.size() <= request_max || client.input.find('\n') < request_max;
}

// Takes the next request, once the client has the answer to the one before, and says what is to
// be waited for.
void Server::serve(int number)
{
    Client& client = *clients_.at(number);
    if (!client.asked && client.output.empty()) {
        if (const std::size_t end = client.input.find('\n'); end != std::string::npos) {
            const std::string request = client.input.substr(0, end);
            client.input.erase(0, end + 1);
            if (request != "stats") return answer(number, "{\"error\":\"no such request\"}\n");
            client.asked = true;
            stats_([self = self_, number](const vm::VmStats& stats) {
                if (*self != nullptr) (*self)->answer(number, stats_json(stats));
            });
        }
    }
    const bool wants_input = !client.asked && client.output.empty();
    const std::uint32_t events = wants_input ? EPOLLIN : client.output.empty() ? 0u : EPOLLOUT;
    if (!loop_.modify(client.fd.get(), events)) drop(number);
}

void Server::answer(int number, const std::string& line)
{
    const auto found = clients_.find(number);
    if (found == clients_.end()) return;
    found->second->asked = false;
    found->second->output += line;
    if (!write_some(*found->second)) return drop(number);
    serve(number);
}

bool Server::write_some(Client& client)
{
    if (client.output.empty()) return true;
    const ssize_t size = ::send(client.fd.get(), client.output.data(), client.output.size(), MSG_NOSIGNAL);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    client.output.erase(0, static_cast<std::size_t>(size));
    return true;
}

void Server::drop(int number)
{
    const auto found = clients_.find(number);
    if (found == clients_.end()) return;
    loop_.remove(found->second->fd.get());
    clients_.erase(found);
}

}  // namespace doppel::control
