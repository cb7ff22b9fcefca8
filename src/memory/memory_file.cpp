#include "memory/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

namespace doppel::memory {

base::Result<MemoryFile> open_memory_file(const std::string& path,
                                          std::optional<std::uint64_t> size, bool read_only)
{
    const auto fail = [&](const char* what) {
        return base::errno_error(base::ErrorKind::io, path + ": " + what, errno);
    };
    const bool create = size.has_value() && !read_only;
    const int flags = (read_only ? O_RDONLY : O_RDWR) | (create ? O_CREAT : 0) | O_CLOEXEC;
    MemoryFile file{base::Fd{::open(path.c_str(), flags, 0644)}, 0, read_only};
    if (!file.fd.valid()) return fail("cannot open");
    struct stat status {};
    if (::fstat(file.fd.get(), &status) != 0) return fail("cannot tell its size");
    if (!S_ISREG(status.st_mode)) return base::usage_error(path + ": not a regular file");
    if (create && status.st_size == 0 && *size <= std::uint64_t{1} << 46) {
        if (::ftruncate(file.fd.get(), static_cast<off_t>(*size)) != 0) return fail("cannot size");
        status.st_size = static_cast<off_t>(*size);
    }
    file.size = static_cast<std::uint64_t>(status.st_size);
    if (size && file.size != *size) {
        return base::usage_error(path + ": has " + std::to_string(file.size) +
                                 " bytes already; leave size= out, or name another file");
    }
    if (file.size == 0 || file.size % MemoryFile::alignment != 0) {
        return base::usage_error(path + ": its " + std::to_string(file.size) + " bytes are not a "
                                 "multiple of 2 MiB; make it one with truncate -s %2M");
    }
    return file;
}

}  // namespace doppel::memory
