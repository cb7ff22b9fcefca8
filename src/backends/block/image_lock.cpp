#include "backends/block/image_lock.h"

#include <fcntl.h>

#include <cerrno>

namespace doppel::backends {

namespace {

constexpr int held_base = 100;
constexpr int denied_base = 200;

// Bits of QEMU's permissions, which are the bytes' numbers.
constexpr int consistent_read = 0;
constexpr int write_data = 1;
constexpr int resize = 3;

struct flock byte_lock(int byte, short type)
{
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    return lock;
}

bool take(int fd, int byte)
{
    auto lock = byte_lock(byte, F_RDLCK);
    return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

// Somebody else has a lock there.
bool taken_elsewhere(int fd, int byte)
{
    auto lock = byte_lock(byte, F_WRLCK);
    return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace

base::Result<void> lock_image(int fd, const std::string& path, bool read_only)
{
    const auto refused = [&](std::string_view how) {
        return base::io_error("Cannot lock '" + path + "': another process has it open for " +
                              std::string{how} + "; end that one first, or use a copy");
    };
    // Take first, look afterwards: of two that start at once, both may fail, never none.
    const auto hold = [&](int byte) { return take(fd, byte); };
    bool all = hold(held_base + consistent_read) && hold(denied_base + write_data) &&
               hold(denied_base + resize);
    if (all && !read_only) all = hold(held_base + write_data) && hold(held_base + resize);
    if (!all) {
        if (errno == EAGAIN || errno == EACCES) return refused("exclusive use");
        return {};
    }
    if (taken_elsewhere(fd, held_base + write_data) || taken_elsewhere(fd, held_base + resize)) {
        return refused("writing");
    }
    if (taken_elsewhere(fd, denied_base + consistent_read)) return refused("exclusive use");
    if (!read_only && (taken_elsewhere(fd, denied_base + write_data) ||
                       taken_elsewhere(fd, denied_base + resize))) {
        return refused("reading, as a disk or a backing file");
    }
    return {};
}

}  // namespace doppel::backends
