// Protocol: numbered bytes somewhere, without a format. What a format stands on.
//
// All members block; any thread, also at the same time. Errors are errno values, since that is
// what tells "no space" from "broken"; 0 is success.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace doppel::backends {

struct ByteFileProperties {
    std::uint32_t alignment = 1;  // what is cheap to be a multiple of
    std::uint32_t discard_granularity = 0;
    bool read_only = false;
    bool can_grow = true;
};

// A range of one kind, from what the file system or server knows without reading.
struct Extent {
    std::uint64_t length = 0;
    bool zero = false;       // reads as zeroes
    bool allocated = true;   // takes space here (false: a hole, or in a backing file)
};

class ByteFile {
public:
    ByteFile() = default;
    ByteFile(const ByteFile&) = delete;
    ByteFile& operator=(const ByteFile&) = delete;
    virtual ~ByteFile() = default;

    [[nodiscard]] virtual const std::string& name() const = 0;
    [[nodiscard]] virtual const ByteFileProperties& properties() const = 0;
    [[nodiscard]] virtual std::uint64_t size() const = 0;

    // All of the buffers. EIO when the end of the file comes first.
    [[nodiscard]] virtual int read(std::uint64_t offset, std::span<const iovec> buffers) = 0;
    // Grows the file where that is needed and possible.
    [[nodiscard]] virtual int write(std::uint64_t offset, std::span<const iovec> buffers) = 0;
    // Everything written before is on stable storage.
    [[nodiscard]] virtual int flush() = 0;
    // Zeroes, with the space given back if possible and may_unmap. Inside the file.
    [[nodiscard]] virtual int write_zeroes(std::uint64_t offset, std::uint64_t length,
                                           bool may_unmap) = 0;
    // A hint; what is read there afterwards is undefined.
    [[nodiscard]] virtual int discard(std::uint64_t offset, std::uint64_t length) = 0;
    // Growing gives zeroes. EOPNOTSUPP where the size is fixed.
    [[nodiscard]] virtual int resize(std::uint64_t size) = 0;
    // What is known from `offset`; 0 < length <= `most`. Without knowledge: data.
    [[nodiscard]] virtual Extent extent(std::uint64_t offset, std::uint64_t most) = 0;
    // Bytes taken on the host; 0: unknown.
    [[nodiscard]] virtual std::uint64_t allocated_bytes() const { return 0; }

    // One piece of memory. (write() does not change what its iovec points to.)
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

[[nodiscard]] inline std::uint64_t total_length(std::span<const iovec> buffers)
{
    std::uint64_t total = 0;
    for (const iovec& buffer : buffers) total += buffer.iov_len;
    return total;
}

// The part of `buffers` from `skip` on, `length` bytes of it.
[[nodiscard]] std::vector<iovec> slice(std::span<const iovec> buffers, std::uint64_t skip,
                                       std::uint64_t length);
void fill_zero(std::span<const iovec> buffers);
void copy_out(std::span<const iovec> buffers, std::span<const std::byte> from);  // into them
void copy_in(std::span<std::byte> to, std::span<const iovec> buffers);

}  // namespace doppel::backends
