#include "backends/block/qcow2/create.h"

#include <fmt/format.h>

#include <algorithm>

namespace doppel::backends::qcow2 {

//  header │ refcount table │ refcount blocks │ L1
//
// The refcount table is large enough for the whole disk, so that it need not move later.
base::Result<void> create_image(ByteFile& file, const CreateOptions& options)
{
    Header header;
    header.version = options.version;
    header.cluster_bits = options.cluster_bits;
    header.size = options.size;
    header.compression = options.compression;
    if (options.compression != Compression::zlib) {
        header.incompatible |= incompatible_compression_type;
    }
    header.backing_file = options.backing_file;
    header.backing_format = options.backing_format;
    const std::uint64_t cluster = header.cluster_size();
    const std::uint64_t l1_entries =
        options.size / header.l2_covers() + (options.size % header.l2_covers() != 0 ? 1 : 0);
    if (l1_entries * 8 > max_l1_bytes || options.size > max_offset) {
        return base::usage_error(fmt::format(
            "A disk of {} bytes is too large for clusters of {} bytes", options.size, cluster));
    }
    header.l1_size = static_cast<std::uint32_t>(std::max<std::uint64_t>(l1_entries, 1));
    const std::uint64_t l1_clusters = header.clusters_for(std::uint64_t{header.l1_size} * 8);

    const std::uint64_t per_block = header.refcounts_per_block();
    // Data, L2 tables, and a sixteenth for everything else.
    const std::uint64_t data = header.clusters_for(options.size);
    const std::uint64_t most = data + data / 16 + l1_entries + l1_clusters + 64;
    const std::uint64_t table_clusters = std::clamp<std::uint64_t>(
        header.clusters_for((most / per_block + 1) * 8), 1,
        std::max<std::uint64_t>(1, max_refcount_table_bytes / cluster));
    std::uint64_t blocks = 1;
    while (blocks * per_block < 1 + table_clusters + blocks + l1_clusters) ++blocks;
    const std::uint64_t used = 1 + table_clusters + blocks + l1_clusters;
    header.refcount_table_offset = cluster;
    header.refcount_table_clusters = static_cast<std::uint32_t>(table_clusters);
    header.l1_offset = (1 + table_clusters + blocks) * cluster;

    const auto done = [&](int error) -> base::Result<void> {
        if (error == 0) return {};
        return base::errno_error(base::ErrorKind::io, "Cannot write '" + file.name() + "'", error);
    };
    const auto first = TRY(serialize_header(header));
    TRY(done(file.resize(used * cluster)));
    std::vector<std::byte> entries(blocks * 8);
    for (std::uint64_t i = 0; i < blocks; ++i) {
        const std::uint64_t host = (1 + table_clusters + i) * cluster;
        store_be(&entries[i * 8], host);
        std::vector<std::byte> block(cluster);
        for (std::uint64_t c = 0; c < per_block && i * per_block + c < used; ++c) {
            store_refcount(block, header.refcount_order, c, 1);
        }
        TRY(done(file.write_at(host, block)));
    }
    TRY(done(file.write_at(cluster, entries)));
    // Last: without a header it is no image.
    TRY(done(file.flush()));
    TRY(done(file.write_at(0, first)));
    return done(file.flush());
}

}  // namespace doppel::backends::qcow2
