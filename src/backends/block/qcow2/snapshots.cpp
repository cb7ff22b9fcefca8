#include "backends/block/qcow2/snapshots.h"

#include <algorithm>
#include <array>

namespace doppel::backends::qcow2 {

namespace {

constexpr std::size_t fixed_bytes = 40;
constexpr std::uint32_t max_extra = 1024;

base::Error damaged()
{
    return base::io_error("The snapshot table is damaged");
}

}  // namespace

base::Result<std::vector<Snapshot>> read_snapshots(ByteFile& file, const Header& header,
                                                   std::uint64_t* table_bytes)
{
    std::vector<Snapshot> snapshots;
    std::uint64_t at = header.snapshots_offset;
    const std::uint64_t end = file.size();
    for (std::uint32_t i = 0; i < header.snapshots; ++i) {
        std::array<std::byte, fixed_bytes> fixed{};
        if (at > end || end - at < fixed.size() || file.read_at(at, fixed) != 0) return damaged();
        Snapshot snapshot;
        snapshot.l1_offset = load_be<std::uint64_t>(&fixed[0]);
        snapshot.l1_size = load_be<std::uint32_t>(&fixed[8]);
        const std::size_t id_size = load_be<std::uint16_t>(&fixed[12]);
        const std::size_t name_size = load_be<std::uint16_t>(&fixed[14]);
        snapshot.seconds = load_be<std::uint32_t>(&fixed[16]);
        snapshot.vm_state_size = load_be<std::uint32_t>(&fixed[32]);
        const std::uint32_t extra = load_be<std::uint32_t>(&fixed[36]);
        if (extra > max_extra) return damaged();
        std::vector<std::byte> rest(extra + id_size + name_size);
        at += fixed.size();
        if (end - at < rest.size() || file.read_at(at, rest) != 0) return damaged();
        at += (rest.size() + 7) / 8 * 8;
        snapshot.disk_size = header.size;
        if (extra >= 8) snapshot.vm_state_size = load_be<std::uint64_t>(&rest[0]);
        if (extra >= 16) snapshot.disk_size = load_be<std::uint64_t>(&rest[8]);
        const auto* text = reinterpret_cast<const char*>(rest.data() + extra);
        snapshot.id.assign(text, id_size);
        snapshot.name.assign(text + id_size, name_size);

        const std::uint64_t bytes = std::uint64_t{snapshot.l1_size} * 8;
        const std::uint64_t needed = snapshot.disk_size / header.l2_covers() +
                                     (snapshot.disk_size % header.l2_covers() != 0 ? 1 : 0);
        const bool inside = snapshot.l1_offset % header.cluster_size() == 0 &&
                            snapshot.l1_offset <= end && bytes <= end - snapshot.l1_offset;
        if (bytes > max_l1_bytes || !inside || needed > snapshot.l1_size) return damaged();
        snapshots.push_back(std::move(snapshot));
    }
    if (table_bytes != nullptr) *table_bytes = at - header.snapshots_offset;
    return snapshots;
}

base::Result<std::vector<std::uint64_t>> read_l1(ByteFile& file, const Header& header,
                                                 std::uint64_t offset, std::uint32_t entries)
{
    std::vector<std::byte> bytes(std::size_t{entries} * 8);
    if (const int error = bytes.empty() ? 0 : file.read_at(offset, bytes); error != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot read the L1 table", error);
    }
    std::vector<std::uint64_t> table(entries);
    for (std::size_t i = 0; i < entries; ++i) {
        table[i] = load_be<std::uint64_t>(&bytes[i * 8]);
        if (!valid_l1(header, table[i])) return base::io_error("The L1 table is damaged");
    }
    return table;
}

}  // namespace doppel::backends::qcow2
