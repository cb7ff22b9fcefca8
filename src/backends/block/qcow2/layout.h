// The qcow2 file format as data (QEMU's docs/interop/qcow2.txt): header, table entries.
// Everything in the file is big-endian. Nothing here does I/O.
//
//   L1 (one) ──▶ L2 (one cluster each) ──▶ data clusters, compressed pieces, zeroes
//   refcount table (one) ──▶ refcount blocks (one cluster each): users of every cluster
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace doppel::backends::qcow2 {

constexpr std::uint32_t magic = 0x514649fb;
constexpr std::uint32_t min_cluster_bits = 9;
constexpr std::uint32_t max_cluster_bits = 21;
constexpr std::uint32_t default_cluster_bits = 16;
constexpr std::uint64_t max_l1_bytes = 32u << 20;
constexpr std::uint64_t max_refcount_table_bytes = 8u << 20;
constexpr std::uint32_t max_snapshots = 65536;
constexpr std::uint64_t max_offset = std::uint64_t{1} << 56;
constexpr std::size_t max_backing_name = 1023;

enum Incompatible : std::uint64_t {
    incompatible_dirty = 1u << 0,             // refcounts may be too low (lazy refcounts)
    incompatible_corrupt = 1u << 1,
    incompatible_data_file = 1u << 2,
    incompatible_compression_type = 1u << 3,  // the header says which; 0 otherwise
    incompatible_extended_l2 = 1u << 4,
};
constexpr std::uint64_t known_incompatible =
    incompatible_dirty | incompatible_corrupt | incompatible_compression_type;

enum class Compression : std::uint8_t { zlib = 0, zstd = 1 };

struct Header {
    std::uint32_t version = 3;
    std::uint32_t cluster_bits = default_cluster_bits;
    std::uint64_t size = 0;  // of the disk
    std::uint32_t l1_size = 0;  // entries
    std::uint64_t l1_offset = 0;
    std::uint64_t refcount_table_offset = 0;
    std::uint32_t refcount_table_clusters = 0;
    std::uint32_t snapshots = 0;
    std::uint64_t snapshots_offset = 0;
    std::uint64_t incompatible = 0;
    std::uint64_t compatible = 0;
    std::uint64_t autoclear = 0;
    std::uint32_t refcount_order = 4;  // refcounts have 1 << this bits
    Compression compression = Compression::zlib;
    std::string backing_file;    // as written in the image; empty: none
    std::string backing_format;  // empty: not said

    [[nodiscard]] std::uint64_t cluster_size() const { return std::uint64_t{1} << cluster_bits; }
    [[nodiscard]] std::uint64_t l2_entries() const { return cluster_size() / 8; }
    // Bytes of disk that one L2 table maps.
    [[nodiscard]] std::uint64_t l2_covers() const { return cluster_size() * l2_entries(); }
    [[nodiscard]] std::uint64_t refcounts_per_block() const
    {
        return cluster_size() * 8 >> refcount_order;
    }
    [[nodiscard]] std::uint64_t largest_refcount() const
    {
        return refcount_order == 6 ? UINT64_MAX : (std::uint64_t{1} << (1u << refcount_order)) - 1;
    }
    [[nodiscard]] std::uint64_t clusters_for(std::uint64_t bytes) const
    {
        return (bytes >> cluster_bits) + ((bytes & (cluster_size() - 1)) != 0 ? 1 : 0);
    }
};

// The first cluster of the file, or all of the file if it is shorter. Everything that the
// format bounds is checked, against the file's size too; errors do not name the file.
base::Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t file_size);
// At most one cluster: header and extensions. An error when that does not fit.
base::Result<std::vector<std::byte>> serialize_header(const Header& header);
// How many bytes parse_header() wants, from the first 512 or fewer.
[[nodiscard]] std::uint64_t header_bytes(std::span<const std::byte> first,
                                         std::uint64_t file_size);

template <typename T>
[[nodiscard]] inline T swap_be(T value)
{
    if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
    else if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
    else if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
    else return value;
}
template <typename T>
[[nodiscard]] inline T load_be(const std::byte* at)
{
    return swap_be(base::load_le<T>(at));
}
template <typename T>
inline void store_be(std::byte* at, T value)
{
    base::store_le(at, swap_be(value));
}

// Entries of L1 and L2 tables.
constexpr std::uint64_t entry_copied = std::uint64_t{1} << 63;      // refcount is exactly 1
constexpr std::uint64_t entry_compressed = std::uint64_t{1} << 62;
constexpr std::uint64_t entry_zero = 1;  // version 3
constexpr std::uint64_t entry_offset = 0x00fffffffffffe00;

struct L2Entry {
    enum class Kind : std::uint8_t { unallocated, zero, data, compressed };

    Kind kind = Kind::unallocated;
    bool copied = false;
    // data: of the cluster; zero: too, or 0 when no space is reserved; compressed: the bytes'.
    std::uint64_t host = 0;
    std::uint64_t length = 0;  // compressed: at most; the stream may end before
};

// False: bits that must not be set, an offset that is not a cluster's or beyond the limit.
[[nodiscard]] bool decode_l2(const Header& header, std::uint64_t raw, L2Entry& entry);
[[nodiscard]] std::uint64_t encode_compressed(const Header& header, std::uint64_t host,
                                              std::uint64_t length);
[[nodiscard]] bool valid_l1(const Header& header, std::uint64_t raw);

// Refcount number `index` of a block.
[[nodiscard]] std::uint64_t load_refcount(std::span<const std::byte> block, std::uint32_t order,
                                          std::uint64_t index);
void store_refcount(std::span<std::byte> block, std::uint32_t order, std::uint64_t index,
                    std::uint64_t value);

}  // namespace doppel::backends::qcow2
