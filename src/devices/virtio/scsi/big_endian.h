// Numbers as SCSI has them, most significant byte first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/assert.h"

namespace doppel::devices::virtio::scsi {

template <typename T>
[[nodiscard]] T big_endian(std::span<const std::byte> bytes, std::size_t at)
{
    ASSERT(at <= bytes.size() && sizeof(T) <= bytes.size() - at);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + i]);
    }
    return static_cast<T>(value);
}
template <typename T>
[[nodiscard]] T big_endian(std::span<const std::uint8_t> bytes, std::size_t at)
{
    return big_endian<T>(std::as_bytes(bytes), at);
}

template <typename T>
void put_big_endian(std::span<std::byte> bytes, std::size_t at, T value)
{
    ASSERT(at <= bytes.size() && sizeof(T) <= bytes.size() - at);
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        bytes[at + i] = static_cast<std::byte>(std::uint64_t{value} >> 8 * (sizeof(T) - 1 - i));
    }
}

}  // namespace doppel::devices::virtio::scsi
