// Who may open an image: one writer, or any number of readers.
//
// Open-file-description locks on the bytes that QEMU uses (its block/file-posix.c: permissions
// held from byte 100 on, permissions denied to others from byte 200 on), so that doppel, QEMU and
// qemu-img keep out of each other's way, too. They end with the descriptor, however the process
// ends. A file system without locks is used without them.
#pragma once

#include <string>

#include "base/result.h"

namespace doppel::backends {

// The error names the file and says whether it is written or read elsewhere.
base::Result<void> lock_image(int fd, const std::string& path, bool read_only);

}  // namespace doppel::backends
