// Cuts what a back end sends into messages. It may send anything, in pieces of any size.
#pragma once

#include <array>
#include <cstring>
#include <optional>
#include <span>

#include "backends/vhost_user/protocol.h"

namespace doppel::backends::vhost_user {

class MessageReader {
public:
    struct Message {
        Header header;
        std::span<const std::byte> payload;  // until the next call of room()
    };

    // Where the next bytes go; never empty. Then added().
    [[nodiscard]] std::span<std::byte> room()
    {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        return std::span{buffer_}.subspan(end_);
    }
    void added(std::size_t size) { end_ += size; }

    // Nothing: more bytes are needed, or it is broken.
    [[nodiscard]] std::optional<Message> next()
    {
        if (broken_ || end_ - begin_ < sizeof(Header)) return std::nullopt;
        Header header{};
        std::memcpy(&header, buffer_.data() + begin_, sizeof header);
        if (header.size > most_payload_bytes ||
            (header.flags & flag_version_mask) != flag_version) {
            broken_ = true;
            return std::nullopt;
        }
        if (end_ - begin_ - sizeof header < header.size) return std::nullopt;
        const Message message{
            header, std::span{buffer_}.subspan(begin_ + sizeof header, header.size)};
        begin_ += sizeof header + header.size;
        return message;
    }
    // It sent what is no message; there is no way to find the next one.
    [[nodiscard]] bool broken() const { return broken_; }

private:
    // One message and a byte, so that there is room while one is incomplete.
    std::array<std::byte, sizeof(Header) + most_payload_bytes + 1> buffer_{};
    std::size_t begin_ = 0, end_ = 0;
    bool broken_ = false;
};

}  // namespace doppel::backends::vhost_user
