// Bounded first-in first-out queue of bytes. No lock of its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace doppel::backends {

class ByteQueue {
public:
    explicit ByteQueue(std::size_t capacity) : bytes_(capacity) {}

    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::size_t room() const { return bytes_.size() - size_; }
    [[nodiscard]] bool empty() const { return size_ == 0; }

    std::size_t push(std::span<const std::byte> from)
    {
        const std::size_t count = std::min(from.size(), room());
        for (std::size_t i = 0; i < count; ++i) {
            bytes_[(start_ + size_ + i) % bytes_.size()] = from[i];
        }
        size_ += count;
        return count;
    }
    std::size_t pop(std::span<std::byte> to)
    {
        const std::size_t count = std::min(to.size(), size_);
        for (std::size_t i = 0; i < count; ++i) to[i] = bytes_[(start_ + i) % bytes_.size()];
        drop(count);
        return count;
    }
    // The oldest bytes that lie in one piece.
    [[nodiscard]] std::span<const std::byte> front() const
    {
        return std::span{bytes_}.subspan(start_, std::min(size_, bytes_.size() - start_));
    }
    void drop(std::size_t count)
    {
        start_ = (start_ + count) % bytes_.size();
        size_ -= count;
    }
    void clear() { start_ = size_ = 0; }

private:
    std::vector<std::byte> bytes_;
    std::size_t start_ = 0;
    std::size_t size_ = 0;
};

}  // namespace doppel::backends
