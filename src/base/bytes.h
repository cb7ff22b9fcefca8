// Little-endian loads and stores on byte spans, and cursors that check every step.
// The cursors are for data that nobody vouches for: files, guests, peers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace doppel::base {

template <typename T>
[[nodiscard]] inline T load_le(const std::byte* at)
{
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

template <typename T>
inline void store_le(std::byte* at, T value)
{
    static_assert(std::is_trivially_copyable_v<T>);
    std::memcpy(at, &value, sizeof(T));
}

// A register value of 1, 2, 4 or 8 bytes from or to a bus access; zero-extends.
[[nodiscard]] inline std::uint64_t load_bytes(std::span<const std::byte> from)
{
    std::uint64_t value = 0;
    std::memcpy(&value, from.data(), from.size() < 8 ? from.size() : 8);
    return value;
}

inline void store_bytes(std::span<std::byte> to, std::uint64_t value)
{
    std::memset(to.data(), 0, to.size());
    std::memcpy(to.data(), &value, to.size() < 8 ? to.size() : 8);
}

class ByteReader {
public:
    explicit ByteReader(std::span<const std::byte> data) : data_(data) {}

    // nullopt, and no movement, when fewer than sizeof(T) bytes are left.
    template <typename T>
    [[nodiscard]] std::optional<T> read()
    {
        if (data_.size() - position_ < sizeof(T)) return std::nullopt;
        T value = load_le<T>(data_.data() + position_);
        position_ += sizeof(T);
        return value;
    }
    [[nodiscard]] std::optional<std::span<const std::byte>> read_bytes(std::size_t count)
    {
        if (data_.size() - position_ < count) return std::nullopt;
        auto part = data_.subspan(position_, count);
        position_ += count;
        return part;
    }
    [[nodiscard]] bool seek(std::size_t position)
    {
        if (position > data_.size()) return false;
        position_ = position;
        return true;
    }
    [[nodiscard]] std::size_t position() const { return position_; }
    [[nodiscard]] std::size_t remaining() const { return data_.size() - position_; }

private:
    std::span<const std::byte> data_;
    std::size_t position_ = 0;
};

class ByteWriter {
public:
    template <typename T>
    void write(T value)
    {
        static_assert(std::is_trivially_copyable_v<T>);
        const std::size_t at = data_.size();
        data_.resize(at + sizeof(T));
        store_le(data_.data() + at, value);
    }
    void write_bytes(std::span<const std::byte> bytes)
    {
        data_.insert(data_.end(), bytes.begin(), bytes.end());
    }
    void write_text(std::string_view text) { write_bytes(std::as_bytes(std::span{text})); }
    void fill(std::size_t count, std::byte value = {}) { data_.insert(data_.end(), count, value); }
    [[nodiscard]] std::size_t size() const { return data_.size(); }
    [[nodiscard]] std::vector<std::byte>& data() { return data_; }
    [[nodiscard]] std::vector<std::byte> take() { return std::move(data_); }

private:
    std::vector<std::byte> data_;
};

}  // namespace doppel::base
