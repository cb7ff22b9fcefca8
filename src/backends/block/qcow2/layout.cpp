#include "backends/block/qcow2/layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace doppel::backends::qcow2 {

namespace {

constexpr std::size_t header_v2 = 72;
constexpr std::size_t header_v3 = 104;
constexpr std::size_t header_with_compression = 112;

enum Extension : std::uint32_t {
    extension_end = 0,
    extension_backing_format = 0xe2792aca,
    extension_feature_names = 0x6803f857,
};

base::Error damaged(std::string text)
{
    return base::io_error("The qcow2 header is damaged: " + std::move(text));
}

base::Result<void> parse_features(Header& header, std::span<const std::byte> bytes)
{
    if (bytes.size() < header_v3) return damaged("it is cut short");
    const auto u32 = [&](std::size_t at) { return load_be<std::uint32_t>(bytes.data() + at); };
    const auto u64 = [&](std::size_t at) { return load_be<std::uint64_t>(bytes.data() + at); };
    header.incompatible = u64(72);
    header.compatible = u64(80);
    header.autoclear = u64(88);
    header.refcount_order = u32(96);
    if (header.refcount_order > 6) return damaged("refcounts of more than 64 bits");
    if ((header.incompatible & incompatible_data_file) != 0) {
        return base::io_error("Its data is in another file (external data file), which doppel "
                              "does not support; 'qemu-img convert' makes one file of it");
    }
    if ((header.incompatible & incompatible_extended_l2) != 0) {
        return base::io_error("It has extended L2 entries (subclusters), which doppel does not "
                              "support; 'qemu-img convert -O qcow2' removes them");
    }
    if ((header.incompatible & ~known_incompatible) != 0) {
        return base::io_error(fmt::format("It uses features that doppel does not know "
                                          "(incompatible feature bits {:#x})",
                                          header.incompatible & ~known_incompatible));
    }
    const std::uint32_t length = u32(100);
    if (length < header_v3 || length % 8 != 0) return damaged("impossible header length");
    if ((header.incompatible & incompatible_compression_type) != 0) {
        if (length < header_with_compression || bytes.size() < header_with_compression) {
            return damaged("the compression type is missing");
        }
        const auto type = std::to_integer<std::uint8_t>(bytes[104]);
        if (type > 1) return base::io_error("It is compressed in a way that doppel does not know");
        header.compression = static_cast<Compression>(type);
    }
    return {};
}

base::Result<void> parse_extensions(Header& header, std::span<const std::byte> bytes,
                                    std::uint64_t at, std::uint64_t end)
{
    while (at <= end && end - at >= 8) {
        const auto type = load_be<std::uint32_t>(bytes.data() + at);
        const auto length = load_be<std::uint32_t>(bytes.data() + at + 4);
        at += 8;
        if (type == extension_end) return {};
        if (length > end - at) return damaged("a header extension is longer than the header");
        if (type == extension_backing_format) {
            if (length > 64) return damaged("an impossible backing format");
            header.backing_format.assign(reinterpret_cast<const char*>(bytes.data() + at), length);
        }
        at += (std::uint64_t{length} + 7) / 8 * 8;
    }
    return {};
}

// A table inside the file, whole clusters from a cluster's start.
bool table_fits(const Header& header, std::uint64_t offset, std::uint64_t bytes,
                std::uint64_t file_size)
{
    return offset % header.cluster_size() == 0 && offset < max_offset && offset <= file_size &&
           bytes <= file_size - offset;
}

base::Result<void> check_tables(const Header& header, std::uint64_t file_size)
{
    const std::uint64_t l1_bytes = std::uint64_t{header.l1_size} * 8;
    if (l1_bytes > max_l1_bytes) return damaged("the L1 table is too large");
    // l1_size entries map l1_size * l2_covers() bytes; divided, so that nothing overflows.
    const std::uint64_t needed =
        header.size / header.l2_covers() + (header.size % header.l2_covers() != 0 ? 1 : 0);
    if (needed > header.l1_size) return damaged("the L1 table is too small for the disk");
    if (l1_bytes != 0 && (header.l1_offset == 0 ||
                          !table_fits(header, header.l1_offset, l1_bytes, file_size))) {
        return damaged("the L1 table is outside the file");
    }
    const std::uint64_t refcount_bytes = std::uint64_t{header.refcount_table_clusters}
                                         << header.cluster_bits;
    if (refcount_bytes == 0) return damaged("there is no refcount table");
    if (refcount_bytes > max_refcount_table_bytes) {
        return damaged("the refcount table is too large");
    }
    if (header.refcount_table_offset == 0 ||
        !table_fits(header, header.refcount_table_offset, refcount_bytes, file_size)) {
        return damaged("the refcount table is outside the file");
    }
    if (header.snapshots > max_snapshots) return damaged("too many snapshots");
    if (header.snapshots != 0 && !table_fits(header, header.snapshots_offset,
                                             std::uint64_t{header.snapshots} * 40, file_size)) {
        return damaged("the snapshot table is outside the file");
    }
    return {};
}

}  // namespace

std::uint64_t header_bytes(std::span<const std::byte> first, std::uint64_t file_size)
{
    if (first.size() < 24) return 0;
    const auto bits = load_be<std::uint32_t>(first.data() + 20);
    if (bits < min_cluster_bits || bits > max_cluster_bits) return first.size();
    return std::min(file_size, std::uint64_t{1} << bits);
}

base::Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t file_size)
{
    if (bytes.size() < header_v2) return damaged("it is cut short");
    const auto u32 = [&](std::size_t at) { return load_be<std::uint32_t>(bytes.data() + at); };
    const auto u64 = [&](std::size_t at) { return load_be<std::uint64_t>(bytes.data() + at); };
    if (u32(0) != magic) return base::io_error("It is not a qcow2 image");
    Header header;
    header.version = u32(4);
    if (header.version != 2 && header.version != 3) {
        return base::io_error(fmt::format("It is qcow2 version {}; doppel knows 2 and 3",
                                          header.version));
    }
    const std::uint64_t backing_offset = u64(8);
    const std::uint32_t backing_length = u32(16);
    header.cluster_bits = u32(20);
    if (header.cluster_bits < min_cluster_bits || header.cluster_bits > max_cluster_bits) {
        return damaged("impossible cluster size");
    }
    header.size = u64(24);
    if (u32(32) != 0) return base::io_error("It is encrypted, which doppel does not support");
    header.l1_size = u32(36);
    header.l1_offset = u64(40);
    header.refcount_table_offset = u64(48);
    header.refcount_table_clusters = u32(56);
    header.snapshots = u32(60);
    header.snapshots_offset = u64(64);
    std::uint64_t length = header_v2;
    if (header.version == 3) {
        TRY(parse_features(header, bytes));
        length = u32(100);
    }
    const std::uint64_t end = std::min<std::uint64_t>(bytes.size(), header.cluster_size());
    if (length > end) return damaged("impossible header length");
    std::uint64_t extensions_end = end;
    if (backing_offset != 0) {
        if (backing_length > max_backing_name) return damaged("the backing file's name is too long");
        if (backing_offset < length || backing_offset > end ||
            backing_length > end - backing_offset) {
            return damaged("the backing file's name is outside the first cluster");
        }
        header.backing_file.assign(reinterpret_cast<const char*>(bytes.data() + backing_offset),
                                   backing_length);
        if (header.backing_file.find('\0') != std::string::npos) {
            return damaged("the backing file's name has a zero byte");
        }
        extensions_end = backing_offset;
    }
    TRY(parse_extensions(header, bytes, length, extensions_end));
    TRY(check_tables(header, file_size));
    return header;
}

base::Result<std::vector<std::byte>> serialize_header(const Header& header)
{
    const bool v3 = header.version == 3;
    const std::uint32_t length = v3 ? header_with_compression : header_v2;
    base::ByteWriter out;
    const auto u32 = [&](std::uint32_t value) { out.write(swap_be(value)); };
    const auto u64 = [&](std::uint64_t value) { out.write(swap_be(value)); };
    base::ByteWriter extensions;
    const auto extension = [&](std::uint32_t type, std::string_view data) {
        extensions.write(swap_be(type));
        extensions.write(swap_be(static_cast<std::uint32_t>(data.size())));
        extensions.write_text(data);
        extensions.fill((8 - data.size() % 8) % 8);
    };
    if (!header.backing_format.empty()) extension(extension_backing_format, header.backing_format);
    extension(extension_end, {});
    const std::uint64_t backing_at = length + extensions.size();
    const bool backed = !header.backing_file.empty();

    u32(magic);
    u32(header.version);
    u64(backed ? backing_at : 0);
    u32(static_cast<std::uint32_t>(header.backing_file.size()));
    u32(header.cluster_bits);
    u64(header.size);
    u32(0);  // not encrypted
    u32(header.l1_size);
    u64(header.l1_offset);
    u64(header.refcount_table_offset);
    u32(header.refcount_table_clusters);
    u32(header.snapshots);
    u64(header.snapshots_offset);
    if (v3) {
        u64(header.incompatible);
        u64(header.compatible);
        u64(header.autoclear);
        u32(header.refcount_order);
        u32(length);
        out.write(static_cast<std::uint8_t>(header.compression));
        out.fill(7);
    }
    out.write_bytes(extensions.data());
    if (backed) out.write_text(header.backing_file);
    if (header.backing_file.size() > max_backing_name || out.size() > header.cluster_size()) {
        return base::usage_error("The backing file's name does not fit into the image's first "
                                 "cluster; use a shorter one, or larger clusters");
    }
    return out.take();
}

bool decode_l2(const Header& header, std::uint64_t raw, L2Entry& entry)
{
    using Kind = L2Entry::Kind;
    entry = {};
    entry.copied = (raw & entry_copied) != 0;
    if ((raw & entry_compressed) != 0) {
        // Offset in the low bits; above it the number of further 512-byte sectors.
        const unsigned shift = 62 - (header.cluster_bits - 8);
        const std::uint64_t value = raw & (entry_compressed - 1);
        entry.kind = Kind::compressed;
        entry.host = value & ((std::uint64_t{1} << shift) - 1);
        entry.length = ((value >> shift) + 1) * 512 - entry.host % 512;
        return !entry.copied && entry.host < max_offset && entry.host != 0;
    }
    const std::uint64_t known = entry_copied | entry_offset |
                                (header.version >= 3 ? entry_zero : 0);
    if ((raw & ~known) != 0) return false;
    entry.host = raw & entry_offset;
    if (entry.host % header.cluster_size() != 0) return false;
    if ((raw & entry_zero) != 0) {
        entry.kind = Kind::zero;
        return entry.host != 0 || !entry.copied;
    }
    entry.kind = entry.host == 0 ? Kind::unallocated : Kind::data;
    return entry.host != 0 || !entry.copied;
}

std::uint64_t encode_compressed(const Header& header, std::uint64_t host, std::uint64_t length)
{
    const unsigned shift = 62 - (header.cluster_bits - 8);
    const std::uint64_t sectors = ((host + length - 1) >> 9) - (host >> 9);
    return entry_compressed | (sectors << shift) | host;
}

bool valid_l1(const Header& header, std::uint64_t raw)
{
    if ((raw & ~(entry_copied | entry_offset)) != 0) return false;
    const std::uint64_t host = raw & entry_offset;
    if (host == 0) return raw == 0;
    return host % header.cluster_size() == 0;
}

std::uint64_t load_refcount(std::span<const std::byte> block, std::uint32_t order,
                            std::uint64_t index)
{
    switch (order) {
        case 3: return std::to_integer<std::uint64_t>(block[index]);
        case 4: return load_be<std::uint16_t>(&block[index * 2]);
        case 5: return load_be<std::uint32_t>(&block[index * 4]);
        case 6: return load_be<std::uint64_t>(&block[index * 8]);
        default: {
            const std::uint64_t bit = index << order;
            const auto byte = std::to_integer<std::uint64_t>(block[bit / 8]);
            return (byte >> (bit % 8)) & ((1u << (1u << order)) - 1);
        }
    }
}

void store_refcount(std::span<std::byte> block, std::uint32_t order, std::uint64_t index,
                    std::uint64_t value)
{
    switch (order) {
        case 3: block[index] = static_cast<std::byte>(value); return;
        case 4: store_be(&block[index * 2], static_cast<std::uint16_t>(value)); return;
        case 5: store_be(&block[index * 4], static_cast<std::uint32_t>(value)); return;
        case 6: store_be(&block[index * 8], value); return;
        default: {
            const std::uint64_t bit = index << order;
            const auto mask = static_cast<std::uint8_t>(((1u << (1u << order)) - 1) << (bit % 8));
            std::byte& byte = block[bit / 8];
            byte = (byte & ~std::byte{mask}) |
                   (static_cast<std::byte>(value << (bit % 8)) & std::byte{mask});
            return;
        }
    }
}

}  // namespace doppel::backends::qcow2
