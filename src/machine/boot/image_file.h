// A file that the user named, read into memory as a whole: kernels and initrds are kept
// for the life of the machine, since a reset loads them again, and must not change or
// fault under it as a mapping could.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/mapped_region.h"
#include "base/result.h"

namespace doppel::machine::boot {

class ImageFile {
public:
    // Errors are usage errors that begin with `option` and the path: missing, unreadable, a
    // directory, larger than `limit` bytes. An empty file is fine here.
    static base::Result<ImageFile> read(std::string_view option, const std::string& path,
                                        std::uint64_t limit);

    [[nodiscard]] std::span<const std::byte> bytes() const { return region_.bytes().first(size_); }

private:
    base::MappedRegion region_;
    std::size_t size_ = 0;
};

}  // namespace doppel::machine::boot
