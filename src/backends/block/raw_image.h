// Format raw: the file's bytes are the disk's.
#pragma once

#include "backends/block/image.h"

namespace doppel::backends {

class RawImage final : public Image {
public:
    // guessed: nobody said that this is raw. Then a write that makes it look like another
    // format fails, since the next opening would believe it and open the files it names.
    enum class Origin : std::uint8_t { named, guessed };

    explicit RawImage(std::unique_ptr<ByteFile> file, Origin origin = Origin::named);

    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] bool read_only() const override { return file_->properties().read_only; }
    [[nodiscard]] std::uint32_t discard_granularity() const override
    {
        return file_->properties().discard_granularity;
    }
    [[nodiscard]] int read(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int write(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int flush() override { return file_->flush(); }
    [[nodiscard]] int write_zeroes(std::uint64_t offset, std::uint64_t length,
                                   bool may_unmap) override;
    [[nodiscard]] int discard(std::uint64_t offset, std::uint64_t length) override;
    [[nodiscard]] int resize(std::uint64_t size) override;
    [[nodiscard]] Extent extent(std::uint64_t offset, std::uint64_t most, int& error) override;

    [[nodiscard]] std::optional<Direct> begin_direct(Access access, std::uint64_t offset,
                                                     std::uint64_t length) override;

    [[nodiscard]] ByteFile& file() { return *file_; }

private:
    std::unique_ptr<ByteFile> file_;
    Origin origin_;
    std::uint64_t size_;       // the disk's: whole sectors
    std::uint64_t file_size_;  // a read-only file may end inside the last sector
};

// The first bytes are those of a format that can name other files.
[[nodiscard]] bool looks_like_image(std::span<const iovec> first_bytes);

}  // namespace doppel::backends
