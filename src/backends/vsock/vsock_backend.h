// The host's end of a guest's streams: who wants a port of the guest, and whom the guest reaches.
//
// Threads: the event loop's, or before it runs.
#pragma once

#include <cstdint>
#include <functional>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

class VsockBackend {
public:
    // A connected stream socket, not blocking, whose other end asked for a port of the guest.
    using Accept = std::function<void(std::uint32_t guest_port, base::Fd client)>;

    virtual ~VsockBackend() = default;
    // Once, before the loop runs.
    virtual void attach(Accept accept) = 0;
    // The guest asks for a port of the host: a connected stream socket, not blocking.
    virtual base::Result<base::Fd> connect(std::uint32_t host_port) = 0;
};

}  // namespace doppel::backends
