// A serial line whose output goes to a file; no input.
#pragma once

#include "backends/character/character_backend.h"
#include "backends/character/output_pump.h"

namespace doppel::backends {

class FileBackend final : public CharacterBackend {
public:
    enum class Mode { truncate, append };

    // `failed` on the loop's thread when the file takes no more (disk full).
    static base::Result<std::unique_ptr<FileBackend>> create(
        base::EventLoop& loop, const std::string& path, Mode mode,
        std::function<void(const base::Error&)> failed);
    FileBackend(const FileBackend&) = delete;
    FileBackend& operator=(const FileBackend&) = delete;
    ~FileBackend() override;

    std::size_t write(std::span<const std::byte> bytes) noexcept override
    {
        return output_->write(bytes);
    }
    [[nodiscard]] std::size_t output_room() const noexcept override { return output_->room(); }
    std::size_t read(std::span<std::byte>) noexcept override { return 0; }
    [[nodiscard]] std::size_t input_available() const noexcept override { return 0; }
    void set_input_callback(std::function<void()>) override {}
    void set_writable_callback(std::function<void()> callback) override;
    void flush() noexcept override { output_->flush(); }

private:
    explicit FileBackend(base::EventLoop& loop) : output_(std::make_shared<OutputPump>(loop)) {}
    std::shared_ptr<OutputPump> output_;
};

}  // namespace doppel::backends
