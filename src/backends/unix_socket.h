// Unix stream sockets by path.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

// A listening socket whose path vanishes with it, unless somebody else's is there by then.
class UnixListener {
public:
    // Refuses a path that exists, unless it is a socket that nobody listens on any more.
    // `what` begins every error: "--console socket:/tmp/x".
    static base::Result<UnixListener> create(const std::string& path, const std::string& what);
    UnixListener(UnixListener&&) noexcept = default;
    UnixListener& operator=(UnixListener&&) = delete;
    ~UnixListener();

    [[nodiscard]] int fd() const { return fd_.get(); }
    // A new client, not blocking; invalid when there is none.
    [[nodiscard]] base::Fd accept() const;

private:
    UnixListener() = default;

    std::string path_;
    base::Fd fd_;
    std::uint64_t device_ = 0, inode_ = 0;  // of the path's file
};

// Not blocking; connected, since that takes no time with these sockets.
base::Result<base::Fd> connect_unix(const std::string& path, const std::string& what);

}  // namespace doppel::backends
