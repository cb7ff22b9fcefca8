// The descriptors of somebody who lists them anew before each wait, as poll() wants them, on an
// event loop: kept in an epoll set of their own, and only changes are told to the kernel.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

class PollSet {
public:
    static base::Result<PollSet> create();
    // Readable when one of the descriptors is ready.
    [[nodiscard]] int fd() const { return epoll_.get(); }

    // A new list: begin(), add() each, end(). add() gives the number to ask ready() with.
    void begin();
    int add(int fd, std::uint32_t epoll_events);
    void end();
    // The descriptor is about to be closed.
    void forget(int fd);

    // Looks what is ready now, without waiting.
    void look();
    [[nodiscard]] std::uint32_t ready(int number) const;

private:
    struct Watched {
        std::uint32_t events = 0, ready = 0;
        bool listed = false;
    };
    base::Fd epoll_;
    std::vector<int> list_;
    std::map<int, Watched> watched_;
};

}  // namespace doppel::backends
