// The console's escape key: Ctrl-A, then one more.
#pragma once

#include <cstddef>
#include <vector>

namespace doppel::backends {

class EscapeFilter {
public:
    enum class Action { none, leave, help };

    // Removes escape sequences from the bytes; Ctrl-A Ctrl-A becomes one Ctrl-A, and Ctrl-A
    // before any other key stays, since line editors use it. The last action found. Keys
    // after "leave" in the same piece are dropped.
    Action apply(std::vector<std::byte>& bytes)
    {
        Action action = Action::none;
        std::vector<std::byte> kept;
        kept.reserve(bytes.size() + 1);
        for (const std::byte byte : bytes) {
            if (!escaped_) {
                if (byte == control_a) {
                    escaped_ = true;
                } else {
                    kept.push_back(byte);
                }
                continue;
            }
            escaped_ = false;
            const auto key = std::to_integer<char>(byte);
            if (byte == control_a) {
                kept.push_back(byte);
            } else if (key == 'h' || key == 'H') {
                action = Action::help;
            } else if (key == 'x' || key == 'X') {
                action = Action::leave;
                break;
            } else {
                kept.push_back(control_a);
                kept.push_back(byte);
            }
        }
        bytes = std::move(kept);
        return action;
    }

private:
    static constexpr std::byte control_a{0x01};
    bool escaped_ = false;
};

}  // namespace doppel::backends
