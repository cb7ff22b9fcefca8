#include "devices/virtio/queue/chain.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/assert.h"

namespace doppel::devices::virtio {

void Chain::begin()
{
    spans_.clear();
    readable_spans_ = buffers_ = 0;
    readable_size_ = writable_size_ = 0;
    writing_ = false;
}

const char* Chain::add(const Dma& dma, std::uint64_t address, std::uint32_t size, Access access)
{
    if (++buffers_ > most_buffers) return "a chain has too many buffers";
    if (access == Access::write) {
        writing_ = true;
    } else if (writing_) {
        return "a buffer to read comes after one to write";
    }
    if (size > std::numeric_limits<std::uint32_t>::max() - readable_size_ - writable_size_) {
        return "a chain has too many bytes";
    }
    if (size > ~address) return "a buffer wraps around";
    for (std::uint64_t done = 0; done < size;) {
        const DmaSpan span = dma.span(address + done, size - done, access);
        if (span.bytes.empty()) return "a buffer is not in memory";
        spans_.push_back(span);
        done += span.bytes.size();
    }
    if (access == Access::write) {
        writable_size_ += size;
    } else {
        readable_size_ += size;
        readable_spans_ = spans_.size();
    }
    return nullptr;
}

std::size_t ChainReader::read(std::span<std::byte> to)
{
    std::size_t done = 0;
    while (done < to.size() && !rest().empty()) {
        const std::size_t part = std::min(rest().size(), to.size() - done);
        std::memcpy(to.data() + done, rest().data(), part);
        took(part);
        done += part;
    }
    return done;
}

std::span<const std::byte> ChainReader::rest() const
{
    return rest_.empty() ? std::span<const std::byte>{} : rest_.front().bytes.subspan(at_);
}

void ChainReader::took(std::size_t size)
{
    ASSERT(size <= rest().size());
    at_ += size;
    skip_done();
}

void ChainReader::skip_done()
{
    while (!rest_.empty() && at_ >= rest_.front().bytes.size()) {
        at_ -= rest_.front().bytes.size();
        rest_ = rest_.subspan(1);
    }
}

ChainWriter::ChainWriter(const Dma& dma, const Chain& chain, std::size_t offset)
    : dma_(dma), rest_(chain.writable()), at_(offset)
{
    skip_full();
}

void ChainWriter::skip_full()
{
    while (!rest_.empty() && at_ >= rest_.front().bytes.size()) {
        at_ -= rest_.front().bytes.size();
        rest_ = rest_.subspan(1);
    }
}

std::span<std::byte> ChainWriter::room() const
{
    return rest_.empty() ? std::span<std::byte>{} : rest_.front().bytes.subspan(at_);
}

void ChainWriter::wrote(std::size_t size)
{
    ASSERT(size <= room().size());
    if (size == 0) return;
    dma_.written(rest_.front().at + at_, size);
    at_ += size;
    written_ += static_cast<std::uint32_t>(size);
    skip_full();
}

std::size_t ChainWriter::write(std::span<const std::byte> from)
{
    std::size_t done = 0;
    while (done < from.size() && !room().empty()) {
        const std::size_t part = std::min(room().size(), from.size() - done);
        std::memcpy(room().data(), from.data() + done, part);
        wrote(part);
        done += part;
    }
    return done;
}

}  // namespace doppel::devices::virtio
