// Addresses of Unix stream sockets.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <optional>
#include <string>

namespace doppel::control {

// Nothing: the path is too long for an address.
inline std::optional<sockaddr_un> unix_address(const std::string& path)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return std::nullopt;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

// SAFETY: bind() and connect() take every address type through this one; sockaddr_un begins
// with the same sa_family.
inline const sockaddr* as_generic(const sockaddr_un& address)
{
    return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace doppel::control
