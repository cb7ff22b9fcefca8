#include "backends/block/image_lock.h"

#include <fcntl.h>

#include <cerrno>
#include <chrono>
#include <string_view>
#include <thread>

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

void release(int fd)
{
    for (const int base : {held_base, denied_base}) {
        for (const int bit : {consistent_read, write_data, resize}) {
            auto lock = byte_lock(base + bit, F_UNLCK);
            static_cast<void>(::fcntl(fd, F_OFD_SETLK, &lock));
        }
    }
}

// What somebody else has it open for, or nothing.
std::string_view try_lock(int fd, bool read_only)
{
    constexpr std::string_view exclusive = "exclusive use";
    // Take first, look afterwards: of two that start at once, both may fail, never none.
    bool all = take(fd, held_base + consistent_read) && take(fd, denied_base + write_data) &&
               take(fd, denied_base + resize);
    if (all && !read_only) all = take(fd, held_base + write_data) && take(fd, held_base + resize);
    // Any other error: a file system without locks.
    if (!all) return errno == EAGAIN || errno == EACCES ? exclusive : std::string_view{};
    if (taken_elsewhere(fd, held_base + write_data) || taken_elsewhere(fd, held_base + resize)) {
        return "writing";
    }
    if (taken_elsewhere(fd, denied_base + consistent_read)) return exclusive;
    const bool denied = taken_elsewhere(fd, denied_base + write_data) ||
                        taken_elsewhere(fd, denied_base + resize);
    return !read_only && denied ? "reading, as a disk or a backing file" : std::string_view{};
}

}  // namespace

base::Result<void> lock_image(int fd, const std::string& path, bool read_only)
{
    using namespace std::chrono_literals;
    // The kernel closes the files of a process that was killed a little later than it reports its
    // end when an io_uring was using them.
    const auto deadline = std::chrono::steady_clock::now() + 500ms;
    while (true) {
        const std::string_view use = try_lock(fd, read_only);
        if (use.empty()) return {};
        release(fd);
        if (std::chrono::steady_clock::now() >= deadline) {
            return base::io_error("Cannot lock '" + path + "': another process has it open for " +
                                  std::string{use} + "; end that one first, or use a copy");
        }
        std::this_thread::sleep_for(10ms);
    }
}

}  // namespace doppel::backends
