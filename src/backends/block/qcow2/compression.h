// Compressed clusters: raw deflate with a 4 KiB window, or zstd.
#pragma once

#include <span>
#include <vector>

#include "backends/block/qcow2/layout.h"

namespace doppel::backends::qcow2 {

// Fills `to` exactly; `from` may have bytes after the stream's end. False: it is no such stream.
[[nodiscard]] bool decompress(Compression how, std::span<const std::byte> from,
                              std::span<std::byte> to);
// Empty when it does not get smaller.
[[nodiscard]] std::vector<std::byte> compress(Compression how, std::span<const std::byte> from);

}  // namespace doppel::backends::qcow2
