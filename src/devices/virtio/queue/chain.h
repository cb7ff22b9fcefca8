// One request from a queue: the buffers of a descriptor chain, checked. What the device reads comes
// first, what it writes after that.
//
//   spans:   readable ........ | writable ........
//            header, data        data, status
//
// The guest may change what is in the buffers at any time: copy, check the copy, use the copy.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devices/virtio/queue/dma.h"

namespace doppel::devices::virtio {

class Chain {
public:
    // More buffers than this nobody needs: the host's IOV_MAX, and what Linux drivers stay below.
    static constexpr std::size_t most_buffers = 1024;

    [[nodiscard]] std::span<const DmaSpan> readable() const
    {
        return std::span{spans_}.first(readable_spans_);
    }
    [[nodiscard]] std::span<const DmaSpan> writable() const
    {
        return std::span{spans_}.subspan(readable_spans_);
    }
    // Bytes; together they fit 32 bits.
    [[nodiscard]] std::uint32_t readable_size() const { return readable_size_; }
    [[nodiscard]] std::uint32_t writable_size() const { return writable_size_; }

    // For the rings: begin(), add() each buffer, finish().
    void begin();
    // What is wrong with it, or nullptr.
    [[nodiscard]] const char* add(const Dma& dma, std::uint64_t address, std::uint32_t size,
                                  Access access);
    void finish(std::uint16_t id, std::uint16_t slots) { id_ = id, slots_ = slots; }
    [[nodiscard]] std::uint16_t id() const { return id_; }
    [[nodiscard]] std::uint16_t slots() const { return slots_; }

private:
    std::vector<DmaSpan> spans_;
    std::size_t readable_spans_ = 0;
    std::size_t buffers_ = 0;
    std::uint32_t readable_size_ = 0, writable_size_ = 0;
    bool writing_ = false;
    std::uint16_t id_ = 0;     // how the driver knows it
    std::uint16_t slots_ = 0;  // of a packed ring, that it takes
};

// Takes bytes from the readable part, from the beginning or from `offset` on.
class ChainReader {
public:
    explicit ChainReader(const Chain& chain, std::size_t offset = 0)
        : rest_(chain.readable()), at_(offset)
    {
        skip_done();
    }
    // How many bytes there were.
    std::size_t read(std::span<std::byte> to);
    // False, with `value` undefined, when there are fewer bytes.
    template <typename T>
    [[nodiscard]] bool read_value(T& value)
    {
        static_assert(std::is_trivially_copyable_v<T>);
        return read(std::as_writable_bytes(std::span{&value, 1})) == sizeof value;
    }

    // The next piece, empty at the end, for those who take it from there and then say how much.
    [[nodiscard]] std::span<const std::byte> rest() const;
    void took(std::size_t size);

private:
    void skip_done();

    std::span<const DmaSpan> rest_;
    std::size_t at_ = 0;  // in the first of rest_
};

// Puts bytes into the writable part, from the beginning or from `offset` on.
class ChainWriter {
public:
    ChainWriter(const Dma& dma, const Chain& chain, std::size_t offset = 0);
    // How many bytes there was room for.
    std::size_t write(std::span<const std::byte> from);
    // The next piece of room, empty at the end, for those who write there themselves and then
    // say how much.
    [[nodiscard]] std::span<std::byte> room() const;
    void wrote(std::size_t size);
    // Altogether, which is what the driver is told.
    [[nodiscard]] std::uint32_t written() const { return written_; }

private:
    void skip_full();

    const Dma& dma_;
    std::span<const DmaSpan> rest_;
    std::size_t at_ = 0;
    std::uint32_t written_ = 0;
};

}  // namespace doppel::devices::virtio
