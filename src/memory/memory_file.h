// A file of the host that a guest has as memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace doppel::memory {

struct MemoryFile {
    // Host and guest map such pieces at once, and Linux wants such a start and size.
    static constexpr std::uint64_t alignment = std::uint64_t{2} << 20;

    base::Fd fd;
    std::uint64_t size = 0;  // bytes, a positive multiple of `alignment`
    bool read_only = false;
};

// An existing file of a suitable size; with `size`, a new one of that size, or one that has it.
// Errors name the file.
base::Result<MemoryFile> open_memory_file(const std::string& path,
                                          std::optional<std::uint64_t> size, bool read_only);

}  // namespace doppel::memory
