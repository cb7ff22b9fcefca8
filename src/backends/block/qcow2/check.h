// Whether an image's tables agree with each other, and making them agree.
//
// A corruption is something that is referred to and not counted, referred to from several places
// and counted once, or not there: to write to such an image would spread the damage, to read from
// it might give another cluster's data. A leak is something that is counted and not referred to:
// space lost, no harm; crashes leave that.
#pragma once

#include "backends/block/byte_file.h"
#include "backends/block/qcow2/layout.h"

namespace doppel::backends::qcow2 {

struct CheckOptions {
    // Do nothing, and report complete = false, when there are more bytes of tables than this.
    std::uint64_t most_bytes = UINT64_MAX;
};
// Some 512 GiB of disk at the usual cluster size, in a fraction of a second.
constexpr CheckOptions check_when_opening{64u << 20};

struct CheckReport {
    static constexpr std::size_t most_messages = 20;

    bool complete = true;
    std::uint64_t corruptions = 0;
    std::uint64_t leaks = 0;
    std::uint64_t fixed_corruptions = 0;
    std::uint64_t fixed_leaks = 0;
    std::uint64_t total_clusters = 0;  // of the disk
    std::uint64_t allocated_clusters = 0;
    std::uint64_t compressed_clusters = 0;
    std::uint64_t image_end = 0;  // of what is referred to
    std::vector<std::string> messages;  // the first of them
};

// An error when the image cannot be read, or is too large to be checked.
base::Result<CheckReport> check_image(ByteFile& file, const Header& header,
                                      const CheckOptions& options = {});

enum class Repair : std::uint8_t {
    leaks,  // gives back what is leaked; nothing else
    all,    // counts everything anew; clusters that are not there cannot be helped
};
// What was found, and of that what is fixed. Nobody else may have the image open. The header is
// updated to what is on disk.
base::Result<CheckReport> repair_image(ByteFile& file, Header& header, Repair how);

}  // namespace doppel::backends::qcow2
