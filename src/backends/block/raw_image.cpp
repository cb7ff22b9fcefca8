#include "backends/block/raw_image.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace doppel::backends {

namespace {

constexpr std::uint64_t sector = 512;

}  // namespace

bool looks_like_image(std::span<const iovec> first_bytes)
{
    static constexpr std::array<unsigned char, 4> magic{'Q', 'F', 'I', 0xfb};
    std::array<std::byte, 4> found{};
    if (total_length(first_bytes) < found.size()) return false;
    copy_in(found, first_bytes);
    return std::memcmp(found.data(), magic.data(), magic.size()) == 0;
}

RawImage::RawImage(std::unique_ptr<ByteFile> file, Origin origin)
    : file_(std::move(file)), origin_(origin), size_(file_->size()), file_size_(size_)
{
    // A writable file is made whole by the first write to its end; see write().
    size_ = (size_ + sector - 1) / sector * sector;
    if (!file_->properties().can_grow) size_ = file_size_ / sector * sector;
}

int RawImage::read(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t length = total_length(buffers);
    if (offset + length <= file_size_) return file_->read(offset, buffers);
    const std::uint64_t there = std::max(file_->size(), offset) - offset;
    if (there >= length) return file_->read(offset, buffers);
    fill_zero(slice(buffers, there, length - there));
    return there == 0 ? 0 : file_->read(offset, slice(buffers, 0, there));
}

int RawImage::write(std::uint64_t offset, std::span<const iovec> buffers)
{
    if (offset == 0 && origin_ == Origin::guessed && looks_like_image(buffers)) return EPERM;
    return file_->write(offset, buffers);
}

// A read behind the file's end comes back short, which sends it to read().
std::optional<Image::Direct> RawImage::begin_direct(Access access, std::uint64_t offset,
                                                    std::uint64_t)
{
    // write() looks at what is written there.
    if (access == Access::write && offset == 0 && origin_ == Origin::guessed) return std::nullopt;
    return Direct{offset, 0};
}

int RawImage::write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    return file_->write_zeroes(offset, length, may_unmap);
}

int RawImage::discard(std::uint64_t offset, std::uint64_t length)
{
    return file_->discard(offset, length);
}

int RawImage::resize(std::uint64_t size)
{
    const int error = file_->resize(size);
    if (error == 0) size_ = file_size_ = size;
    return error;
}

Extent RawImage::extent(std::uint64_t offset, std::uint64_t most, int& error)
{
    error = 0;
    return file_->extent(offset, most);
}

}  // namespace doppel::backends
