// Frames out of a stream of bytes, as QEMU's -netdev stream and passt send them: a length of 4
// bytes, most significant first, then so many bytes of frame. The peer may send anything.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "backends/net/frame.h"

namespace doppel::backends {

class StreamDecoder {
public:
    static constexpr std::size_t length_bytes = 4;

    StreamDecoder() : buffer_(buffer_bytes) {}

    // Where the next bytes of the stream go, never empty when next() has given all it has; then
    // added() says how many came.
    [[nodiscard]] std::span<std::byte> room();
    void added(std::size_t size) { end_ += size; }

    // The next whole frame, valid until room() is called; nothing when more bytes are needed, or
    // when the stream is broken.
    [[nodiscard]] std::optional<std::span<std::byte>> next();
    // As if next() had not given that frame.
    void put_back(std::span<const std::byte> frame) { begin_ -= length_bytes + frame.size(); }
    // A length was zero or larger than any frame: there is no way to find the next one.
    [[nodiscard]] bool broken() const { return broken_; }
    void reset() { begin_ = end_ = 0, broken_ = false; }

private:
    // Several frames at a time, and always one whole.
    static constexpr std::size_t buffer_bytes = 4 * most_frame_bytes;

    std::vector<std::byte> buffer_;
    std::size_t begin_ = 0, end_ = 0;  // what came and was not given out
    bool broken_ = false;
};

[[nodiscard]] std::array<std::byte, StreamDecoder::length_bytes> stream_length(std::size_t size);

}  // namespace doppel::backends
