#include "machine/boot/image_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace doppel::machine::boot {

base::Result<ImageFile> ImageFile::read(std::string_view option, const std::string& path,
                                        std::uint64_t limit)
{
    const auto error = [&](std::string_view text) {
        return base::usage_error(fmt::format("{} '{}': {}", option, path, text));
    };
    const base::Fd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!fd.valid()) {
        return error(fmt::format("cannot open it: {}; check the path", std::strerror(errno)));
    }
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) return error(std::strerror(errno));
    if (S_ISDIR(status.st_mode)) return error("a directory; name a file");
    // Pipes and devices have no size; a regular file is read to the size it has now.
    std::uint64_t capacity = S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size)
                                                     : std::min<std::uint64_t>(limit, 1u << 30);
    if (capacity > limit) {
        return error(fmt::format("{} bytes, more than the {} bytes of guest memory; give more "
                                 "--memory",
                                 capacity, limit));
    }
    ImageFile file;
    if (capacity == 0) return file;
    file.region_ = TRY(base::MappedRegion::map(capacity, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
    while (file.size_ < capacity) {
        const ssize_t got =
            ::read(fd.get(), file.region_.data() + file.size_, capacity - file.size_);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error(fmt::format("cannot read it: {}", std::strerror(errno)));
        if (got == 0) break;
        file.size_ += static_cast<std::size_t>(got);
    }
    if (!S_ISREG(status.st_mode) && file.size_ == capacity) {
        return error("more data than guest memory can hold; give more --memory");
    }
    return file;
}

}  // namespace doppel::machine::boot
