// A serial line behind a listening Unix stream socket; one client at a time, a second one
// is closed at once. A client that shuts down its sending side still gets output. While nobody is connected output vanishes. The path is removed at
// the end.
#pragma once

#include "backends/character/character_backend.h"
#include "backends/character/input_pump.h"
#include "backends/character/output_pump.h"
#include "backends/unix_socket.h"

namespace doppel::backends {

class SocketBackend final : public CharacterBackend {
public:
    // Refuses a path that exists, unless it is a socket that nobody listens on any more.
    static base::Result<std::unique_ptr<SocketBackend>> create(base::EventLoop& loop,
                                                               const std::string& path);
    SocketBackend(const SocketBackend&) = delete;
    SocketBackend& operator=(const SocketBackend&) = delete;
    // On the loop's thread, or when it does not run.
    ~SocketBackend() override;

    std::size_t write(std::span<const std::byte> bytes) noexcept override
    {
        return output_->write(bytes);
    }
    [[nodiscard]] std::size_t output_room() const noexcept override { return output_->room(); }
    std::size_t read(std::span<std::byte> bytes) noexcept override { return input_->read(bytes); }
    [[nodiscard]] std::size_t input_available() const noexcept override
    {
        return input_->available();
    }
    void set_input_callback(std::function<void()> callback) override;
    void set_writable_callback(std::function<void()> callback) override;
    void flush() noexcept override { output_->flush(); }

private:
    SocketBackend(base::EventLoop& loop, UnixListener listener);
    void accept_client();
    void end_of_input();
    [[nodiscard]] bool client_hung_up() const;
    void drop_client();

    base::EventLoop& loop_;
    UnixListener listener_;
    base::Fd client_;  // for reading; the output pump has a duplicate
    std::shared_ptr<OutputPump> output_;
    std::shared_ptr<InputPump> input_;
};

}  // namespace doppel::backends
