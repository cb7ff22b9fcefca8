// A serial line that nobody holds: output vanishes, input never comes.
#pragma once

#include "backends/character/character_backend.h"

namespace doppel::backends {

class NullBackend final : public CharacterBackend {
public:
    std::size_t write(std::span<const std::byte> bytes) noexcept override { return bytes.size(); }
    [[nodiscard]] std::size_t output_room() const noexcept override { return 4096; }
    std::size_t read(std::span<std::byte>) noexcept override { return 0; }
    [[nodiscard]] std::size_t input_available() const noexcept override { return 0; }
    void set_input_callback(std::function<void()>) override {}
    void set_writable_callback(std::function<void()>) override {}
    void flush() noexcept override {}
};

}  // namespace doppel::backends
