#include "backends/block/host_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "backends/block/image_lock.h"

namespace doppel::backends {

namespace {

constexpr std::uint64_t largest_offset = INT64_MAX;
constexpr std::size_t most_vectors = 1024;  // IOV_MAX

struct AlignedMemory {
    explicit AlignedMemory(std::size_t size)
        : bytes(static_cast<std::byte*>(std::aligned_alloc(4096, (size + 4095) / 4096 * 4096))),
          length(size)
    {
    }
    AlignedMemory(const AlignedMemory&) = delete;
    AlignedMemory& operator=(const AlignedMemory&) = delete;
    ~AlignedMemory() { std::free(bytes); }
    [[nodiscard]] std::span<std::byte> span() const { return {bytes, length}; }

    std::byte* bytes;
    std::size_t length;
};

enum class Direction { read, write };

// Goes on after short transfers. ENODATA at the end of the file.
int transfer(int fd, Direction direction, std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t length = total_length(buffers);
    if (offset > largest_offset || length > largest_offset - offset) return EFBIG;
    std::uint64_t moved = 0;
    std::vector<iovec> rest;
    while (moved < length) {
        const auto part = buffers.first(std::min(buffers.size(), most_vectors));
        const auto count = static_cast<int>(part.size());
        const auto at = static_cast<off_t>(offset + moved);
        const ssize_t got = direction == Direction::read
                                ? ::preadv(fd, part.data(), count, at)
                                : ::pwritev(fd, part.data(), count, at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0 && total_length(part) != 0) return ENODATA;
        moved += static_cast<std::uint64_t>(got);
        if (moved == length) break;
        rest = slice(buffers, static_cast<std::uint64_t>(got), length);
        buffers = rest;
    }
    return 0;
}

// What the file system wants of O_DIRECT, where the kernel says so (6.1 and later).
void direct_alignment(int fd, std::uint32_t& memory, std::uint32_t& offset)
{
    memory = offset = 4096;
#ifdef STATX_DIOALIGN
    struct statx about {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 &&
        (about.stx_mask & STATX_DIOALIGN) != 0 && about.stx_dio_offset_align != 0) {
        memory = about.stx_dio_mem_align;
        offset = about.stx_dio_offset_align;
    }
#endif
}

}  // namespace

base::Result<std::unique_ptr<HostFile>> HostFile::open(const std::string& path,
                                                       const HostFileOptions& options)
{
    std::unique_ptr<HostFile> file{new HostFile};
    file->path_ = path;
    int flags = O_CLOEXEC | O_NONBLOCK | (options.read_only ? O_RDONLY : O_RDWR);
    if (options.cache == CacheMode::none) flags |= O_DIRECT;
    file->fd_ = base::Fd{::open(path.c_str(), flags)};
    if (!file->fd_.valid() && errno == EINVAL && options.cache == CacheMode::none) {
        return base::io_error("Cannot open '" + path + "' with cache=none: its file system has no "
                              "O_DIRECT; use cache=writeback");
    }
    if (!file->fd_.valid()) {
        const int error = errno;
        const bool could_read = !options.read_only && (error == EACCES || error == EROFS);
        auto failure = base::errno_error(base::ErrorKind::io, "Cannot open '" + path + "'", error);
        return could_read ? base::io_error(failure.text() + "; add readonly if that is enough")
                          : failure;
    }
    TRY(file->set_up(options));
    return file;
}

base::Result<std::unique_ptr<HostFile>> HostFile::create(const std::string& path)
{
    const base::Fd made{::open(path.c_str(), O_CREAT | O_CLOEXEC | O_RDWR | O_NONBLOCK, 0644)};
    if (!made.valid()) {
        return base::errno_error(base::ErrorKind::io, "Cannot create '" + path + "'", errno);
    }
    auto file = TRY(open(path, {}));
    if (file->block_device_) return base::io_error("Cannot create '" + path + "': it is a device");
    if (const int error = file->resize(0); error != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot empty '" + path + "'", error);
    }
    return file;
}

base::Result<void> HostFile::set_up(const HostFileOptions& options)
{
    struct stat about {};
    if (::fstat(fd_.get(), &about) != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot look at '" + path_ + "'", errno);
    }
    block_device_ = S_ISBLK(about.st_mode);
    if (!S_ISREG(about.st_mode) && !block_device_) {
        return base::io_error("Cannot use '" + path_ + "' as a disk: it is neither a file nor a "
                              "block device");
    }
    if (options.lock == HostFileOptions::Lock::take) {
        TRY(lock_image(fd_.get(), path_, options.read_only));
    }
    properties_.read_only = options.read_only;
    properties_.can_grow = !block_device_;
    properties_.discard_granularity = static_cast<std::uint32_t>(about.st_blksize);
    direct_ = options.cache == CacheMode::none;
    unsafe_ = options.cache == CacheMode::unsafe;
    if (direct_) direct_alignment(fd_.get(), memory_alignment_, properties_.alignment);
    return {};
}

std::uint64_t HostFile::size() const
{
    if (block_device_) {
        std::uint64_t bytes = 0;
        return ::ioctl(fd_.get(), BLKGETSIZE64, &bytes) == 0 ? bytes : 0;
    }
    struct stat about {};
    return ::fstat(fd_.get(), &about) == 0 ? static_cast<std::uint64_t>(about.st_size) : 0;
}

std::uint64_t HostFile::allocated_bytes() const
{
    struct stat about {};
    return ::fstat(fd_.get(), &about) == 0 ? static_cast<std::uint64_t>(about.st_blocks) * 512 : 0;
}

bool HostFile::aligned(std::uint64_t offset, std::span<const iovec> buffers) const
{
    if (offset % properties_.alignment != 0) return false;
    std::uint64_t total = 0;
    for (const iovec& buffer : buffers) {
        if (reinterpret_cast<std::uintptr_t>(buffer.iov_base) % memory_alignment_ != 0) return false;
        if (buffer.iov_len % memory_alignment_ != 0) return false;
        total += buffer.iov_len;
    }
    return total % properties_.alignment == 0;
}

int HostFile::read(std::uint64_t offset, std::span<const iovec> buffers)
{
    if (direct_ && !aligned(offset, buffers)) return read_bounced(offset, buffers);
    const int error = transfer(fd_.get(), Direction::read, offset, buffers);
    return error == ENODATA ? EIO : error;
}

int HostFile::read_bounced(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t unit = properties_.alignment;
    const std::uint64_t length = total_length(buffers);
    const std::uint64_t start = offset / unit * unit;
    const std::uint64_t end = (offset + length + unit - 1) / unit * unit;
    const std::uint64_t known = size();
    if (offset > known || length > known - offset) return EIO;
    const AlignedMemory bounce{end - start};
    if (bounce.bytes == nullptr) return ENOMEM;
    const iovec whole{bounce.bytes, bounce.length};
    // The file may end inside the last block.
    const int error = transfer(fd_.get(), Direction::read, start, {&whole, 1});
    if (error != 0 && error != ENODATA) return error;
    copy_out(buffers, bounce.span().subspan(offset - start, length));
    return 0;
}

int HostFile::write(std::uint64_t offset, std::span<const iovec> buffers)
{
    if (!direct_) return transfer(fd_.get(), Direction::write, offset, buffers);
    if (!aligned(offset, buffers)) return write_bounced(offset, buffers);
    const std::shared_lock lock{direct_mutex_};
    return transfer(fd_.get(), Direction::write, offset, buffers);
}

int HostFile::write_bounced(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t unit = properties_.alignment;
    const std::uint64_t length = total_length(buffers);
    if (offset > largest_offset || length > largest_offset - offset - unit) return EFBIG;
    const std::uint64_t start = offset / unit * unit;
    const std::uint64_t end = (offset + length + unit - 1) / unit * unit;
    const AlignedMemory bounce{end - start};
    if (bounce.bytes == nullptr) return ENOMEM;
    const auto bytes = bounce.span();
    const std::unique_lock lock{direct_mutex_};
    const std::uint64_t known = size();
    const auto read_block = [&](std::uint64_t at) {
        const auto block = bytes.subspan(at - start, unit);
        std::fill(block.begin(), block.end(), std::byte{0});
        const iovec one{block.data(), block.size()};
        const int error = transfer(fd_.get(), Direction::read, at, {&one, 1});
        return error == ENODATA ? 0 : error;  // what is not there yet is zero
    };
    if (start < offset) {
        if (const int error = read_block(start); error != 0) return error;
    }
    if (end > offset + length && (end - unit != start || start == offset)) {
        if (const int error = read_block(end - unit); error != 0) return error;
    }
    copy_in(bytes.subspan(offset - start, length), buffers);
    const iovec whole{bounce.bytes, bounce.length};
    if (const int error = transfer(fd_.get(), Direction::write, start, {&whole, 1}); error != 0) {
        return error;
    }
    // Whole blocks were written; the file ends where the caller said.
    const std::uint64_t wanted = std::max(known, offset + length);
    return !block_device_ && end > wanted ? resize(wanted) : 0;
}

int HostFile::flush()
{
    if (unsafe_ || properties_.read_only) return 0;
    // A failed fdatasync() may have dropped the pages that it could not write, and the next one
    // would succeed: after one failure nothing here can be promised any more.
    if (flush_failed_.load()) return EIO;
    if (::fdatasync(fd_.get()) == 0) return 0;
    flush_failed_.store(true);
    return errno;
}

int HostFile::write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    const auto at = static_cast<off_t>(offset);
    const auto count = static_cast<off_t>(length);
    if (may_unmap && ::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                                 count) == 0) {
        return 0;
    }
    if (::fallocate(fd_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, count) == 0) {
        return 0;
    }
    if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENODEV && errno != ENOSYS) return errno;
    constexpr std::size_t piece = 1 << 20;
    const std::vector<std::byte> zeroes(std::min<std::uint64_t>(piece, length));
    for (std::uint64_t done = 0; done < length;) {
        const std::size_t now = std::min<std::uint64_t>(zeroes.size(), length - done);
        const int error = write_at(offset + done, std::span{zeroes}.first(now));
        if (error != 0) return error;
        done += now;
    }
    return 0;
}

int HostFile::discard(std::uint64_t offset, std::uint64_t length)
{
    if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
        return 0;
    }
    // A hint: a host that cannot has done all it can.
    return errno == EOPNOTSUPP || errno == ENODEV || errno == ENOSYS || errno == EINVAL ? 0 : errno;
}

int HostFile::resize(std::uint64_t size)
{
    if (block_device_) return EOPNOTSUPP;
    if (size > largest_offset) return EFBIG;
    return ::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0 ? 0 : errno;
}

Extent HostFile::extent(std::uint64_t offset, std::uint64_t most)
{
    const Extent all_data{most, false, true};
    if (block_device_ || offset > largest_offset) return all_data;
    const auto at = static_cast<off_t>(offset);
    const off_t data = ::lseek(fd_.get(), at, SEEK_DATA);
    if (data < 0) return errno == ENXIO ? Extent{most, true, false} : all_data;
    if (data > at) return {std::min(most, static_cast<std::uint64_t>(data - at)), true, false};
    const off_t hole = ::lseek(fd_.get(), at, SEEK_HOLE);
    if (hole <= at) return all_data;
    return {std::min(most, static_cast<std::uint64_t>(hole - at)), false, true};
}

}  // namespace doppel::backends
