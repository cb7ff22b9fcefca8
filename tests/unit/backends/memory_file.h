// A ByteFile in memory that remembers everything that was done to it, so that a test can see what
// any crash would have left.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <vector>

#include "backends/block/byte_file.h"

namespace doppel::backends {

class MemoryFile final : public ByteFile {
public:
    static constexpr std::uint64_t largest = 256u << 20;
    static constexpr std::size_t sector = 512;

    struct Event {
        enum class Kind { write, resize, flush } kind;
        std::uint64_t offset = 0;  // write: where; resize: the size
        std::vector<std::byte> bytes;
    };

    MemoryFile() = default;
    explicit MemoryFile(std::vector<std::byte> content) : content_(std::move(content)) {}

    void remember() { remembering_ = true; start_ = content_; }
    [[nodiscard]] const std::vector<Event>& history() const { return history_; }
    [[nodiscard]] const std::vector<std::byte>& content() const { return content_; }
    [[nodiscard]] std::vector<std::byte>& content() { return content_; }
    void fail_writes_after(int writes) { writes_left_ = writes; }

    // The process died after the first `events`. Cheap when asked for more and more of them.
    [[nodiscard]] std::vector<std::byte> after_kill(std::size_t events) const
    {
        if (events < replayed_ || replayed_ == 0) {
            replay_ = start_;
            replayed_ = 0;
        }
        for (; replayed_ < events; ++replayed_) apply(replay_, history_[replayed_]);
        return replay_;
    }
    // The power failed after the first `events`: of what was not flushed, any sectors are there.
    [[nodiscard]] std::vector<std::byte> after_power_failure(std::size_t events,
                                                             std::mt19937& random) const
    {
        std::size_t durable = 0;
        for (std::size_t i = 0; i < events; ++i) {
            if (history_[i].kind == Event::Kind::flush) durable = i;
        }
        std::vector<std::byte> bytes = after_kill(durable);
        // Of each sector's writes, a first part; together in any order.
        std::map<std::uint64_t, int> stopped;
        const unsigned keep = random() % 4;  // none, few, many, nearly all
        for (std::size_t i = durable; i < events; ++i) {
            const Event& event = history_[i];
            if (event.kind != Event::Kind::write) continue;
            for (std::size_t at = 0; at < event.bytes.size();) {
                const std::uint64_t number = (event.offset + at) / sector;
                const std::size_t count = std::min<std::size_t>(
                    event.bytes.size() - at, (number + 1) * sector - event.offset - at);
                int& stop = stopped[number];
                if (stop == 0 && random() % 4 > keep) stop = 1;
                if (stop == 0) {
                    const std::uint64_t end = event.offset + at + count;
                    if (bytes.size() < end) bytes.resize(end);
                    std::memcpy(&bytes[event.offset + at], &event.bytes[at], count);
                }
                at += count;
            }
        }
        return bytes;
    }

    [[nodiscard]] const std::string& name() const override { return name_; }
    [[nodiscard]] const ByteFileProperties& properties() const override { return properties_; }
    [[nodiscard]] std::uint64_t size() const override
    {
        const std::lock_guard lock{mutex_};
        return content_.size();
    }
    [[nodiscard]] int read(std::uint64_t offset, std::span<const iovec> buffers) override
    {
        const std::lock_guard lock{mutex_};
        const std::uint64_t length = total_length(buffers);
        if (offset > content_.size() || length > content_.size() - offset) return EIO;
        copy_out(buffers, std::span{content_}.subspan(offset, length));
        return 0;
    }
    [[nodiscard]] int write(std::uint64_t offset, std::span<const iovec> buffers) override
    {
        const std::lock_guard lock{mutex_};
        const std::uint64_t length = total_length(buffers);
        if (offset > largest || length > largest - offset) return ENOSPC;
        if (writes_left_ == 0) return ENOSPC;
        if (writes_left_ > 0) --writes_left_;
        Event event{Event::Kind::write, offset, std::vector<std::byte>(length)};
        copy_in(event.bytes, buffers);
        record(std::move(event));
        return 0;
    }
    [[nodiscard]] int flush() override
    {
        const std::lock_guard lock{mutex_};
        record({Event::Kind::flush, 0, {}});
        return 0;
    }
    [[nodiscard]] int write_zeroes(std::uint64_t offset, std::uint64_t length, bool) override
    {
        return write_at(offset, std::vector<std::byte>(length));
    }
    // As bad as the interface allows: what is read there afterwards is rubbish.
    [[nodiscard]] int discard(std::uint64_t offset, std::uint64_t length) override
    {
        return write_at(offset, std::vector<std::byte>(length, std::byte{0xdd}));
    }
    [[nodiscard]] int resize(std::uint64_t size) override
    {
        const std::lock_guard lock{mutex_};
        if (size > largest) return ENOSPC;
        record({Event::Kind::resize, size, {}});
        return 0;
    }
    [[nodiscard]] Extent extent(std::uint64_t, std::uint64_t most) override
    {
        return {most, false, true};
    }

private:
    static void apply(std::vector<std::byte>& bytes, const Event& event)
    {
        if (event.kind == Event::Kind::resize) bytes.resize(event.offset);
        if (event.kind != Event::Kind::write) return;
        const std::uint64_t end = event.offset + event.bytes.size();
        if (bytes.size() < end) bytes.resize(end);
        if (!event.bytes.empty()) {
            std::memcpy(&bytes[event.offset], event.bytes.data(), event.bytes.size());
        }
    }
    void record(Event event)
    {
        apply(content_, event);
        if (remembering_) history_.push_back(std::move(event));
    }

    mutable std::mutex mutex_;
    std::string name_ = "memory";
    ByteFileProperties properties_;
    std::vector<std::byte> content_;
    std::vector<std::byte> start_;
    std::vector<Event> history_;
    mutable std::vector<std::byte> replay_;  // after_kill(replayed_)
    mutable std::size_t replayed_ = 0;
    bool remembering_ = false;
    int writes_left_ = -1;
};

}  // namespace doppel::backends
