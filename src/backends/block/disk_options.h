// What --disk says: FILE[,key=value]... A comma in a file's name is written twice.
#pragma once

#include <string>
#include <string_view>

#include "backends/block/block.h"

namespace doppel::backends {

struct DiskOptions {
    BlockOptions block;
    // For the device, not the backend.
    std::string serial;     // at most 20 printable ASCII characters; empty: none
    unsigned queues = 1;    // 1 to 16
};

// Keys: format=raw|qcow2, readonly[=on|off], cache=writeback|none|unsafe, serial=TEXT, queues=N,
// snapshot=NAME, io=uring|threads, bps=SIZE, iops=N, bps_burst=SIZE, iops_burst=N (SIZE with
// suffix K, M or G). Usage errors say what was found; the caller adds the option's name.
base::Result<DiskOptions> parse_disk_options(std::string_view text);

}  // namespace doppel::backends
