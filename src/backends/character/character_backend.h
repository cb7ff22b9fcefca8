// The host's end of a serial line: a terminal, a file, a socket, or nothing.
//
//   guest's UART ──write()──▶ output queue ──▶ host      (write takes what there is room for)
//   guest's UART ◀──read()─── input queue ◀─── host      (bytes wait here until asked for)
//
// Threads: write(), read(), input_available(), output_room() and flush() from any thread,
// with any lock of the caller's held: none of the first four blocks. The callbacks run on
// the event loop's thread, without any lock of the backend held, so they may take the
// device's lock and call back into the backend; set them before the loop runs. Destroy a
// backend on the loop's thread or when the loop does not run.
//
// Nothing is read, and no terminal is changed, before the loop runs.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"

namespace doppel::backends {

class CharacterBackend {
public:
    virtual ~CharacterBackend() = default;

    // Queues a prefix of the bytes; how many were taken. Never blocks.
    virtual std::size_t write(std::span<const std::byte> bytes) noexcept = 0;
    // Bytes that write() would take now.
    [[nodiscard]] virtual std::size_t output_room() const noexcept = 0;

    // Takes up to bytes.size() bytes of input; how many there were.
    virtual std::size_t read(std::span<std::byte> bytes) noexcept = 0;
    [[nodiscard]] virtual std::size_t input_available() const noexcept = 0;

    // There is more input than before.
    virtual void set_input_callback(std::function<void()> callback) = 0;
    // There is plenty of room again after a write() that left little or found too little.
    virtual void set_writable_callback(std::function<void()> callback) = 0;

    // Waits, for a bounded time, until queued output is with the host. Any thread; also
    // when the event loop no longer runs.
    virtual void flush() noexcept = 0;
};

// What a console may ask of, or report to, whoever runs the VM. On the loop's thread.
struct ConsoleEvents {
    std::function<void()> leave;                         // Ctrl-A x
    // Output has nowhere to go any more (reader gone, disk full). Once; from then on
    // output is accepted and dropped, so that the guest is not held up.
    std::function<void(const base::Error&)> failed;
};

// spec: "stdio", "none", "file:PATH" or "socket:PATH"; errors name --console. The loop must
// outlive the backend.
base::Result<std::unique_ptr<CharacterBackend>> create_character_backend(std::string_view spec,
                                                                         base::EventLoop& loop,
                                                                         ConsoleEvents events);

}  // namespace doppel::backends
