// Copies a disk into a new image, and only what has to be stored there.
#pragma once

#include <functional>

#include "backends/block/image.h"

namespace doppel::backends {

struct CopyOptions {
    // `to` reads as zeroes where nothing was written to it.
    bool target_is_zero = true;
    // Where the target's content (its backing file's) is the same already, nothing is written.
    bool compare_with_target = false;
    std::uint64_t block = 65536;  // what is compared, skipped or compressed; a power of 2
    // Instead of write(): one whole block at a time. Null: not compressed.
    std::function<int(std::uint64_t offset, std::span<const std::byte> block)> write_compressed;
    std::function<void(std::uint64_t done)> progress;  // bytes; null: nobody is watching
};

struct CopyResult {
    int error = 0;  // errno
    bool reading = false;  // it was the source that failed
    std::uint64_t offset = 0;
    std::uint64_t copied = 0;  // bytes that were stored
};

// Up to the source's size; the target is as large. Ends with a flush.
[[nodiscard]] CopyResult copy_image(Image& from, Image& to, const CopyOptions& options);

[[nodiscard]] bool all_zero(std::span<const std::byte> bytes);

}  // namespace doppel::backends
