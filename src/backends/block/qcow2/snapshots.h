// Internal snapshots: L1 tables of earlier times, which share clusters with the disk.
#pragma once

#include "backends/block/byte_file.h"
#include "backends/block/qcow2/layout.h"

namespace doppel::backends::qcow2 {

struct Snapshot {
    std::string id;
    std::string name;
    std::uint64_t l1_offset = 0;
    std::uint32_t l1_size = 0;
    std::uint64_t disk_size = 0;
    std::uint64_t vm_state_size = 0;
    std::uint32_t seconds = 0;  // since 1970
};

// Checked as the header is: every L1 table is inside the file and large enough for its disk.
// table_bytes: how long the snapshot table is, for whoever counts clusters.
base::Result<std::vector<Snapshot>> read_snapshots(ByteFile& file, const Header& header,
                                                   std::uint64_t* table_bytes = nullptr);

// The entries of an L1 table, checked by themselves.
base::Result<std::vector<std::uint64_t>> read_l1(ByteFile& file, const Header& header,
                                                 std::uint64_t offset, std::uint32_t entries);

}  // namespace doppel::backends::qcow2
