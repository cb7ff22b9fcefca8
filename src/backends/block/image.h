// Format: a disk's content, in whatever way it is stored.
//
// All members block; any thread, also at the same time, but see each format about order. Offsets
// and lengths are of the disk and inside it. Errors are errno values; 0 is success.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backends/block/byte_file.h"
#include "base/counters.h"

namespace doppel::backends {

class Image {
public:
    Image() = default;
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;
    virtual ~Image() = default;

    [[nodiscard]] virtual std::uint64_t size() const = 0;
    [[nodiscard]] virtual bool read_only() const = 0;
    // What a discard or a zeroed range gives back; 0: nothing.
    [[nodiscard]] virtual std::uint32_t discard_granularity() const = 0;
    [[nodiscard]] virtual std::uint32_t optimal_io_size() const { return 0; }

    [[nodiscard]] virtual int read(std::uint64_t offset, std::span<const iovec> buffers) = 0;
    [[nodiscard]] virtual int write(std::uint64_t offset, std::span<const iovec> buffers) = 0;
    [[nodiscard]] virtual int flush() = 0;
    [[nodiscard]] virtual int write_zeroes(std::uint64_t offset, std::uint64_t length,
                                           bool may_unmap) = 0;
    [[nodiscard]] virtual int discard(std::uint64_t offset, std::uint64_t length) = 0;
    [[nodiscard]] virtual int resize(std::uint64_t size) = 0;
    // What is known from `offset` without reading data; 0 < length <= `most`. errno in `error`.
    [[nodiscard]] virtual Extent extent(std::uint64_t offset, std::uint64_t most, int& error) = 0;

    // For who moves data without blocking: a read or an overwrite of a range that is one piece of
    // the file below, and needs nothing else. Nothing: read() or write() has to do it. The piece
    // stays what it is until end_direct(), which is called once for each begin_direct(). Neither
    // waits for anything.
    struct Direct {
        std::uint64_t offset = 0;  // in the file
        std::uint64_t token = 0;   // the image's own
    };
    enum class Access : std::uint8_t { read, write };
    [[nodiscard]] virtual std::optional<Direct> begin_direct(Access, std::uint64_t /*offset*/,
                                                             std::uint64_t /*length*/)
    {
        return std::nullopt;
    }
    virtual void end_direct(const Direct&) {}

    virtual void counters(base::CounterList&, std::string_view) const {}

    [[nodiscard]] int read_at(std::uint64_t offset, std::span<std::byte> bytes)
    {
        const iovec buffer{bytes.data(), bytes.size()};
        return read(offset, {&buffer, 1});
    }
    [[nodiscard]] int write_at(std::uint64_t offset, std::span<const std::byte> bytes)
    {
        const iovec buffer{const_cast<std::byte*>(bytes.data()), bytes.size()};
        return write(offset, {&buffer, 1});
    }
};

}  // namespace doppel::backends
