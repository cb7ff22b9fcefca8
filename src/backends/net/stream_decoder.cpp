#include "backends/net/stream_decoder.h"

#include <cstring>

#include "base/bytes.h"

namespace doppel::backends {

std::span<std::byte> StreamDecoder::room()
{
    if (begin_ != 0) std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    return std::span{buffer_}.subspan(end_);
}

std::optional<std::span<std::byte>> StreamDecoder::next()
{
    const auto there = std::span{buffer_}.subspan(begin_, end_ - begin_);
    if (broken_ || there.size() < length_bytes) return std::nullopt;
    const std::size_t size = __builtin_bswap32(base::load_le<std::uint32_t>(there.data()));
    if (size == 0 || size > most_frame_bytes) {
        broken_ = true;
        return std::nullopt;
    }
    if (there.size() - length_bytes < size) return std::nullopt;
    begin_ += length_bytes + size;
    return there.subspan(length_bytes, size);
}

std::array<std::byte, StreamDecoder::length_bytes> stream_length(std::size_t size)
{
    std::array<std::byte, StreamDecoder::length_bytes> bytes{};
    base::store_le(bytes.data(), __builtin_bswap32(static_cast<std::uint32_t>(size)));
    return bytes;
}

}  // namespace doppel::backends
