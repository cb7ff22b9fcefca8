// The process's standard input and output as a serial line: a terminal, pipes, files.
//
// Nothing is touched before the event loop runs. Then a terminal goes into raw mode (see
// TerminalGuard) and its keys pass the escape filter, whether the guest listens or not. The end of input is told to the
// guest as one Ctrl-D, after all of it.
//
// O_NONBLOCK is never set on what was inherited: the shell that started doppel shares it.
#pragma once

#include "backends/character/character_backend.h"
#include "backends/character/escape_filter.h"
#include "backends/character/input_pump.h"
#include "backends/character/output_pump.h"
#include "backends/character/terminal_guard.h"

namespace doppel::backends {

class StdioBackend final : public CharacterBackend {
public:
    // The descriptors are for tests; they stay the caller's.
    static base::Result<std::unique_ptr<StdioBackend>> create(base::EventLoop& loop,
                                                              ConsoleEvents events,
                                                              int input_fd = 0,
                                                              int output_fd = 1);
    StdioBackend(const StdioBackend&) = delete;
    StdioBackend& operator=(const StdioBackend&) = delete;
    // On the loop's thread, or when it does not run.
    ~StdioBackend() override;

    std::size_t write(std::span<const std::byte> bytes) noexcept override;
    [[nodiscard]] std::size_t output_room() const noexcept override { return output_->room(); }
    std::size_t read(std::span<std::byte> bytes) noexcept override { return input_->read(bytes); }
    [[nodiscard]] std::size_t input_available() const noexcept override;
    void set_input_callback(std::function<void()> callback) override;
    void set_writable_callback(std::function<void()> callback) override;
    void flush() noexcept override { output_->flush(); }

private:
    StdioBackend(base::EventLoop& loop, ConsoleEvents events, int input_fd, int output_fd);
    void begin();
    void list_keys();
    void mend_typed_ahead(std::span<std::byte> bytes);

    ConsoleEvents events_;
    base::Fd no_input_;  // stands in for an input that is closed
    int input_fd_;
    int output_fd_;
    std::shared_ptr<OutputPump> output_;
    std::shared_ptr<InputPump> input_;
    EscapeFilter escape_;
    std::size_t typed_ahead_ = 0;  // bytes still to read that came before raw mode
    std::unique_ptr<TerminalGuard> terminal_;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace doppel::backends
