#include "control/client.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "control/runtime_dir.h"
#include "control/stats_message.h"
#include "control/unix_socket.h"

namespace doppel::control {

namespace {

constexpr std::chrono::seconds patience{10};
// An answer is a few KiB.
constexpr std::size_t answer_max = 1u << 20;

// Invalid, with errno: nobody there.
base::Fd connect_to(const std::string& path)
{
    const auto address = unix_address(path);
    base::Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!address) errno = ENAMETOOLONG;
    if (!address || ::connect(fd.get(), as_generic(*address), sizeof *address) != 0) fd.reset();
    return fd;
}

}  // namespace

std::vector<pid_t> running_vms(const std::string& dir)
{
    std::vector<pid_t> running;
    for (const pid_t pid : sockets_in(dir)) {
        const std::string path = socket_path(dir, pid);
        if (connect_to(path).valid() || errno == EAGAIN) {
            running.push_back(pid);
        } else if (errno == ECONNREFUSED) {
            ::unlink(path.c_str());
        }
    }
    return running;
}

base::Result<Client> Client::connect(const std::string& dir, pid_t pid)
{
    base::Fd fd = connect_to(socket_path(dir, pid));
    if (fd.valid()) return Client{std::move(fd)};
    if (errno == ENOENT || errno == ECONNREFUSED) {
        return base::usage_error("No VM of this user runs as process " + std::to_string(pid) +
                                 "; 'doppel stats' without a number lists them");
    }
    return base::errno_error(base::ErrorKind::host, "Cannot reach the VM of process " + std::to_string(pid), errno);
}

base::Result<std::optional<vm::VmStats>> Client::stats()
{
    constexpr std::string_view request = "stats\n";
    const auto deadline = std::chrono::steady_clock::now() + patience;
    if (::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
        if (errno == EPIPE || errno == ECONNRESET) return std::optional<vm::VmStats>{};
        return base::errno_error(base::ErrorKind::host, "Cannot ask the VM", errno);
    }
    std::string answer;
    while (!answer.ends_with('\n')) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd ready{fd_.get(), POLLIN, 0};
        if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) == 0) {
            return base::host_error("The VM does not answer; is it stopped?");
        }
        std::array<char, 4096> bytes{};
        const ssize_t size = ::read(fd_.get(), bytes.data(), bytes.size());
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (size <= 0) return std::optional<vm::VmStats>{};
        answer.append(bytes.data(), static_cast<std::size_t>(size));
        if (answer.size() > answer_max) return base::host_error("The VM's answer does not end");
    }
    return std::optional{TRY(parse_stats(answer))};
}

}  // namespace doppel::control
