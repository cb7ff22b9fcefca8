// Where a vhost-user back end is to be found, the first time and whenever it is gone.
#pragma once

#include <string>

#include "backends/unix_socket.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends::vhost_user {

// Threads: the event loop's, or while it does not run.
class Source {
public:
    virtual ~Source() = default;
    // A connected socket. Does not wait for the other end.
    [[nodiscard]] virtual base::Result<base::Fd> connect() = 0;
    // A connection has ended; what is known of the reason, or nothing.
    [[nodiscard]] virtual std::string ended() { return {}; }
    // For errors and the log.
    [[nodiscard]] virtual std::string name() const = 0;
};

// Somebody else starts it, and it listens at a path.
class SocketSource final : public Source {
public:
    explicit SocketSource(std::string path) : path_(std::move(path)) {}
    [[nodiscard]] base::Result<base::Fd> connect() override
    {
        return connect_unix(path_, "vhost-user:" + path_);
    }
    [[nodiscard]] std::string name() const override { return "vhost-user:" + path_; }

private:
    std::string path_;
};

}  // namespace doppel::backends::vhost_user
