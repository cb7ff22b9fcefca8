#include "backends/block/nbd_file.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace doppel::backends {

namespace {

// libnbd's own macro for it is C.
constexpr nbd_completion_callback no_completion{};

constexpr std::uint64_t most_bytes = 16 << 20;  // of one command; servers accept 32 MiB
constexpr std::chrono::seconds patience{30};
constexpr std::uint64_t extent_window = std::uint64_t{1} << 30;  // the length's field has 32 bits

// The first block that the server described.
int note_extent(void* user_data, const char*, std::uint64_t, std::uint32_t* entries,
                std::size_t count, int*)
{
    auto* extent = static_cast<Extent*>(user_data);
    if (count < 2 || entries[0] == 0) return 0;
    extent->length = entries[0];
    extent->zero = (entries[1] & LIBNBD_STATE_ZERO) != 0;
    extent->allocated = (entries[1] & LIBNBD_STATE_HOLE) == 0;
    return 0;
}

}  // namespace

void NbdFile::Close::operator()(nbd_handle* handle) const
{
    ::nbd_close(handle);
}

base::Result<NbdFile::Connection> NbdFile::connect() const
{
    const auto failed = [&] {
        const char* reason = ::nbd_get_error();
        return base::io_error("Cannot connect to '" + uri_ + "': " +
                              (reason != nullptr ? reason : "no reason given"));
    };
    Connection connection{::nbd_create()};
    if (!connection) return failed();
    if (::nbd_add_meta_context(connection.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) < 0) {
        return failed();
    }
    if (::nbd_connect_uri(connection.get(), uri_.c_str()) < 0) return failed();
    return connection;
}

base::Result<std::unique_ptr<NbdFile>> NbdFile::open(const std::string& uri, bool read_only)
{
    std::unique_ptr<NbdFile> file{new NbdFile};
    file->uri_ = uri;
    Connection first = TRY(file->connect());
    nbd_handle* handle = first.get();
    const std::int64_t size = ::nbd_get_size(handle);
    if (size < 0) return base::io_error("'" + uri + "' does not say how large it is");
    if (::nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM) > 512) {
        return base::io_error("'" + uri + "' takes only requests of larger blocks than 512 bytes, "
                              "which doppel does not support");
    }
    const bool server_read_only = ::nbd_is_read_only(handle) > 0;
    if (server_read_only && !read_only) {
        return base::io_error("'" + uri + "' is read-only on its server; add readonly");
    }
    file->size_ = static_cast<std::uint64_t>(size);
    file->properties_.read_only = read_only;
    file->properties_.can_grow = false;
    file->can_flush_ = ::nbd_can_flush(handle) > 0;
    file->can_trim_ = ::nbd_can_trim(handle) > 0;
    file->can_zero_ = ::nbd_can_zero(handle) > 0;
    file->knows_extents_ =
        ::nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    if (file->can_trim_) {
        const std::int64_t preferred = ::nbd_get_block_size(handle, LIBNBD_SIZE_PREFERRED);
        file->properties_.discard_granularity =
            preferred > 0 && preferred <= (1 << 30) ? static_cast<std::uint32_t>(preferred) : 4096;
    }
    const bool several = ::nbd_can_multi_conn(handle) > 0;
    file->idle_.push_back(std::move(first));
    // All now: one that is made later might be to a server that has lost what others wrote.
    while (several && file->idle_.size() < most_connections) {
        file->idle_.push_back(TRY(file->connect()));
    }
    return file;
}

NbdFile::~NbdFile()
{
    for (Connection& connection : idle_) {
        if (connection && ::nbd_aio_is_ready(connection.get()) > 0) {
            ::nbd_aio_disconnect(connection.get(), 0);
        }
    }
}

// One command from start to end. The connection is dropped when it is of no more use.
int NbdFile::perform(Connection& connection, const Start& start) const
{
    if (!connection) {
        auto made = connect();
        if (!made) return EIO;
        if (::nbd_get_size(made->get()) < static_cast<std::int64_t>(size_)) return EIO;
        connection = std::move(*made);
    }
    const std::int64_t cookie = start(connection.get());
    int error = 0;
    if (cookie < 0) {
        error = ::nbd_get_errno();
    } else {
        const auto deadline = std::chrono::steady_clock::now() + patience;
        int done = 0;
        while ((done = ::nbd_aio_command_completed(connection.get(),
                                                   static_cast<std::uint64_t>(cookie))) == 0) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                deadline - std::chrono::steady_clock::now());
            if (left.count() <= 0 ||
                ::nbd_poll(connection.get(), static_cast<int>(left.count())) < 0) {
                break;
            }
        }
        if (done < 0) error = ::nbd_get_errno();
        if (done == 0) {  // silent or gone; closing it forgets the caller's buffer
            connection.reset();
            return ETIMEDOUT;
        }
    }
    if (cookie < 0 && error == 0) error = EIO;
    if (error != 0 && ::nbd_aio_is_ready(connection.get()) <= 0) connection.reset();
    return error;
}

int NbdFile::command(const Start& start)
{
    Connection connection;
    {
        std::unique_lock lock{mutex_};
        returned_.wait(lock, [this] { return !idle_.empty(); });
        connection = std::move(idle_.back());
        idle_.pop_back();
    }
    const int error = perform(connection, start);
    {
        const std::lock_guard lock{mutex_};
        if (!connection && flushed_writes_.load() != writes_.load()) writes_lost_.store(true);
        // Live ones at the end, where they are taken.
        idle_.insert(connection ? idle_.end() : idle_.begin(), std::move(connection));
    }
    returned_.notify_one();
    return error;
}

int NbdFile::read(std::uint64_t offset, std::span<const iovec> buffers)
{
    for (const iovec& buffer : buffers) {
        for (std::size_t done = 0; done < buffer.iov_len;) {
            auto* at = static_cast<std::byte*>(buffer.iov_base) + done;
            const std::size_t count = std::min<std::uint64_t>(buffer.iov_len - done, most_bytes);
            const int error = command([&](nbd_handle* handle) {
                return ::nbd_aio_pread(handle, at, count, offset, no_completion, 0);
            });
            if (error != 0) return error;
            done += count;
            offset += count;
        }
    }
    return 0;
}

int NbdFile::write(std::uint64_t offset, std::span<const iovec> buffers)
{
    const std::uint64_t length = total_length(buffers);
    if (offset > size_ || length > size_ - offset) return ENOSPC;
    writes_.fetch_add(1);
    for (const iovec& buffer : buffers) {
        for (std::size_t done = 0; done < buffer.iov_len;) {
            const auto* at = static_cast<const std::byte*>(buffer.iov_base) + done;
            const std::size_t count = std::min<std::uint64_t>(buffer.iov_len - done, most_bytes);
            const int error = command([&](nbd_handle* handle) {
                return ::nbd_aio_pwrite(handle, at, count, offset, no_completion, 0);
            });
            if (error != 0) return error;
            done += count;
            offset += count;
        }
    }
    return 0;
}

int NbdFile::flush()
{
    if (properties_.read_only) return 0;
    const std::uint64_t upto = writes_.load();
    if (can_flush_) {
        const int error = command([](nbd_handle* handle) {
            return ::nbd_aio_flush(handle, no_completion, 0);
        });
        if (error != 0) return error;
    }
    if (writes_lost_.exchange(false)) return EIO;
    flushed_writes_.store(upto);
    return 0;
}

int NbdFile::write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    if (!can_zero_) {
        const std::vector<std::byte> zeroes(std::min(length, most_bytes));
        for (std::uint64_t done = 0; done < length;) {
            const std::size_t count = std::min<std::uint64_t>(zeroes.size(), length - done);
            const int error = write_at(offset + done, std::span{zeroes}.first(count));
            if (error != 0) return error;
            done += count;
        }
        return 0;
    }
    writes_.fetch_add(1);
    const std::uint32_t flags = may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
    while (length > 0) {
        const std::uint64_t count = std::min(length, most_bytes);
        const int error = command([&](nbd_handle* handle) {
            return ::nbd_aio_zero(handle, count, offset, no_completion, flags);
        });
        if (error != 0) return error;
        offset += count;
        length -= count;
    }
    return 0;
}

int NbdFile::discard(std::uint64_t offset, std::uint64_t length)
{
    if (!can_trim_) return 0;
    writes_.fetch_add(1);
    while (length > 0) {
        const std::uint64_t count = std::min(length, most_bytes);
        const int error = command([&](nbd_handle* handle) {
            return ::nbd_aio_trim(handle, count, offset, no_completion, 0);
        });
        if (error != 0) return error;
        offset += count;
        length -= count;
    }
    return 0;
}

int NbdFile::resize(std::uint64_t)
{
    return EOPNOTSUPP;
}

Extent NbdFile::extent(std::uint64_t offset, std::uint64_t most)
{
    const Extent data{most, false, true};
    if (!knows_extents_) return data;
    Extent found{0, false, true};
    const std::uint64_t window = std::min(most, extent_window);
    const int error = command([&](nbd_handle* handle) {
        nbd_extent_callback callback{};
        callback.callback = &note_extent;
        callback.user_data = &found;
        return ::nbd_aio_block_status(handle, window, offset, callback, no_completion,
                                      LIBNBD_CMD_FLAG_REQ_ONE);
    });
    if (error != 0 || found.length == 0) return data;
    found.length = std::min(found.length, most);
    return found;
}

}  // namespace doppel::backends
