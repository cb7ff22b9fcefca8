#include "backends/vsock/unix_vsock.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

namespace doppel::backends {

namespace {

// "CONNECT 4294967295\n" and room for spaces that nobody should need.
constexpr std::size_t longest_line = 32;

bool equal_letters(std::string_view text, std::string_view upper)
{
    return std::equal(text.begin(), text.end(), upper.begin(), upper.end(), [](char a, char b) {
        return (a >= 'a' && a <= 'z' ? a - 'a' + 'A' : a) == b;
    });
}

}  // namespace

std::optional<std::uint32_t> parse_connect(std::string_view line)
{
    constexpr std::string_view word = "CONNECT ";
    if (!equal_letters(line.substr(0, word.size()), word)) return std::nullopt;
    line.remove_prefix(word.size());
    std::uint32_t port = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
    // The largest number means any port.
    if (error != std::errc{} || end != line.data() + line.size() || port == ~std::uint32_t{0}) {
        return std::nullopt;
    }
    return port;
}

base::Result<std::unique_ptr<UnixVsock>> UnixVsock::create(base::EventLoop& loop,
                                                           const std::string& path)
{
    auto listener = TRY(UnixListener::create(path, "--vsock " + path));
    std::unique_ptr<UnixVsock> made{new UnixVsock{loop, path, std::move(listener)}};
    TRY(loop.add(made->listener_.fd(), EPOLLIN,
                 [raw = made.get()](std::uint32_t) { raw->accept_client(); }));
    return made;
}

UnixVsock::~UnixVsock()
{
    loop_.remove(listener_.fd());
    while (!undecided_.empty()) drop(undecided_.begin());
}

base::Result<base::Fd> UnixVsock::connect(std::uint32_t host_port)
{
    const std::string path = path_ + "_" + std::to_string(host_port);
    return connect_unix(path, "--vsock " + path);
}

void UnixVsock::accept_client()
{
    base::Fd client = listener_.accept();
    if (!client.valid()) return;
    if (undecided_.size() == most_undecided) drop(undecided_.begin());
    const std::uint64_t number = arrivals_++;
    const int fd = client.get();
    undecided_.emplace(number, Undecided{std::move(client), {}});
    if (!loop_.add(fd, EPOLLIN, [this, number](std::uint32_t) { read_line(number); })) {
        drop(undecided_.find(number));
    }
}

void UnixVsock::drop(std::map<std::uint64_t, Undecided>::iterator client)
{
    loop_.remove(client->second.fd.get());
    undecided_.erase(client);
}

// Takes the line and nothing of what is behind it, which belongs to the guest.
void UnixVsock::read_line(std::uint64_t number)
{
    const auto found = undecided_.find(number);
    if (found == undecided_.end()) return;
    Undecided& client = found->second;
    std::array<char, longest_line> bytes{};
    const std::size_t room = longest_line - client.line.size();
    const ssize_t seen = ::recv(client.fd.get(), bytes.data(), room, MSG_PEEK);
    if (seen < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (seen <= 0) return drop(found);
    const std::string_view text{bytes.data(), static_cast<std::size_t>(seen)};
    const std::size_t end = text.find('\n');
    const std::size_t taken = end == text.npos ? text.size() : end + 1;
    if (::recv(client.fd.get(), bytes.data(), taken, 0) != static_cast<ssize_t>(taken)) {
        return drop(found);
    }
    client.line += text.substr(0, end);
    if (end == text.npos) {
        if (client.line.size() == longest_line) drop(found);
        return;
    }
    const auto port = parse_connect(client.line);
    if (!port || !accept_) return drop(found);
    loop_.remove(client.fd.get());
    base::Fd fd = std::move(client.fd);
    undecided_.erase(found);
    accept_(*port, std::move(fd));
}

}  // namespace doppel::backends
