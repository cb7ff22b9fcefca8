#include "backends/block/byte_file.h"

#include <algorithm>
#include <cstring>

namespace doppel::backends {

std::vector<iovec> slice(std::span<const iovec> buffers, std::uint64_t skip, std::uint64_t length)
{
    std::vector<iovec> part;
    for (const iovec& buffer : buffers) {
        if (length == 0) break;
        if (skip >= buffer.iov_len) {
            skip -= buffer.iov_len;
            continue;
        }
        const std::size_t count = std::min<std::uint64_t>(buffer.iov_len - skip, length);
        part.push_back({static_cast<std::byte*>(buffer.iov_base) + skip, count});
        skip = 0;
        length -= count;
    }
    return part;
}

void fill_zero(std::span<const iovec> buffers)
{
    for (const iovec& buffer : buffers) {
        if (buffer.iov_len != 0) std::memset(buffer.iov_base, 0, buffer.iov_len);
    }
}

void copy_out(std::span<const iovec> buffers, std::span<const std::byte> from)
{
    for (const iovec& buffer : buffers) {
        const std::size_t count = std::min(buffer.iov_len, from.size());
        if (count != 0) std::memcpy(buffer.iov_base, from.data(), count);
        from = from.subspan(count);
    }
}

void copy_in(std::span<std::byte> to, std::span<const iovec> buffers)
{
    for (const iovec& buffer : buffers) {
        const std::size_t count = std::min(buffer.iov_len, to.size());
        if (count != 0) std::memcpy(to.data(), buffer.iov_base, count);
        to = to.subspan(count);
    }
}

}  // namespace doppel::backends
