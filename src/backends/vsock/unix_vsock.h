// Guest streams as Unix sockets, as Firecracker has them:
//
//   host to guest   a client connects to PATH and writes "CONNECT <port>\n"; when the guest has
//                   accepted it reads "OK <port of the host>\n", and from then on the stream.
//                   When nobody in the guest listens, or the line is no such line, it is closed.
//   guest to host   a connection to port N of CID 2 comes to the socket PATH_N.
//
// Threads: as VsockBackend.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "backends/unix_socket.h"
#include "backends/vsock/vsock_backend.h"

namespace doppel::backends {

// "CONNECT <port>", without the end of line; letters of either case. Nothing: no such line.
std::optional<std::uint32_t> parse_connect(std::string_view line);

class UnixVsock final : public VsockBackend {
public:
    // Clients that have not said yet what they want; the one that waits longest makes room.
    static constexpr std::size_t most_undecided = 32;

    static base::Result<std::unique_ptr<UnixVsock>> create(base::EventLoop& loop,
                                                           const std::string& path);
    ~UnixVsock() override;

    void attach(Accept accept) override { accept_ = std::move(accept); }
    base::Result<base::Fd> connect(std::uint32_t host_port) override;

private:
    struct Undecided {
        base::Fd fd;
        std::string line;
    };

    UnixVsock(base::EventLoop& loop, std::string path, UnixListener listener)
        : loop_(loop), path_(std::move(path)), listener_(std::move(listener))
    {
    }
    void accept_client();
    void read_line(std::uint64_t number);
    void drop(std::map<std::uint64_t, Undecided>::iterator client);

    base::EventLoop& loop_;
    std::string path_;
    UnixListener listener_;
    Accept accept_;
    std::map<std::uint64_t, Undecided> undecided_;  // by arrival
    std::uint64_t arrivals_ = 0;
};

}  // namespace doppel::backends
