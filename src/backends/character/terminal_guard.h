// Raw mode for the terminal at a descriptor, and its restoration however the process
// ends: destruction, exit(), or a fatal signal. One at a time per process.
#pragma once

#include <memory>

namespace doppel::backends {

class TerminalGuard {
public:
    // Null, and nothing changed, when fd is no terminal, or one that another foreground
    // process group owns.
    static std::unique_ptr<TerminalGuard> make_raw(int fd);
    TerminalGuard(const TerminalGuard&) = delete;
    TerminalGuard& operator=(const TerminalGuard&) = delete;
    ~TerminalGuard();

private:
    TerminalGuard() = default;
};

}  // namespace doppel::backends
