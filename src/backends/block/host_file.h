// Protocol: a regular file or block device of this host.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>

#include "backends/block/block.h"
#include "backends/block/byte_file.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

struct HostFileOptions {
    enum class Lock : std::uint8_t { take, none };

    bool read_only = false;
    CacheMode cache = CacheMode::writeback;
    Lock lock = Lock::take;
};

class HostFile final : public ByteFile {
public:
    // Refuses directories, pipes and the like; locks as image_lock.h says.
    static base::Result<std::unique_ptr<HostFile>> open(const std::string& path,
                                                        const HostFileOptions& options);
    // A new, empty file; one that is there is emptied, when nobody has it open as an image.
    static base::Result<std::unique_ptr<HostFile>> create(const std::string& path);

    [[nodiscard]] const std::string& name() const override { return path_; }
    [[nodiscard]] const ByteFileProperties& properties() const override { return properties_; }
    [[nodiscard]] std::uint64_t size() const override;
    [[nodiscard]] int read(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int write(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int flush() override;
    [[nodiscard]] int write_zeroes(std::uint64_t offset, std::uint64_t length,
                                   bool may_unmap) override;
    [[nodiscard]] int discard(std::uint64_t offset, std::uint64_t length) override;
    [[nodiscard]] int resize(std::uint64_t size) override;
    [[nodiscard]] Extent extent(std::uint64_t offset, std::uint64_t most) override;
    [[nodiscard]] std::uint64_t allocated_bytes() const override;

    [[nodiscard]] int descriptor() const { return fd_.get(); }
    [[nodiscard]] bool direct() const { return direct_; }
    // Whether the descriptor takes these as they are.
    [[nodiscard]] bool takes(std::uint64_t offset, std::span<const iovec> buffers) const
    {
        return !direct_ || aligned(offset, buffers);
    }
    // For who flushes by the descriptor: after one failure nothing can be promised any more.
    [[nodiscard]] bool flush_failed() const { return flush_failed_.load(); }
    void note_failed_flush() { flush_failed_.store(true); }

private:
    HostFile() = default;
    base::Result<void> set_up(const HostFileOptions& options);
    [[nodiscard]] bool aligned(std::uint64_t offset, std::span<const iovec> buffers) const;
    [[nodiscard]] int read_bounced(std::uint64_t offset, std::span<const iovec> buffers);
    [[nodiscard]] int write_bounced(std::uint64_t offset, std::span<const iovec> buffers);

    std::string path_;
    base::Fd fd_;
    ByteFileProperties properties_;
    bool direct_ = false;
    bool unsafe_ = false;
    bool block_device_ = false;
    std::uint32_t memory_alignment_ = 1;
    // O_DIRECT: a write of a part of a block reads the block first, and nobody may write to the
    // rest of it meanwhile.
    std::shared_mutex direct_mutex_;
    std::atomic<bool> flush_failed_ = false;
};

}  // namespace doppel::backends
