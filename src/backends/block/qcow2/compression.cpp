#include "backends/block/qcow2/compression.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace doppel::backends::qcow2 {

namespace {

constexpr int deflate_window = -12;  // raw, 4 KiB: the format's

bool inflate_all(std::span<const std::byte> from, std::span<std::byte> to)
{
    z_stream stream{};
    if (::inflateInit2(&stream, deflate_window) != Z_OK) return false;
    // zlib does not write to next_in.
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(from.data()));
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = reinterpret_cast<Bytef*>(to.data());
    stream.avail_out = static_cast<uInt>(to.size());
    const int result = ::inflate(&stream, Z_FINISH);
    const bool whole = stream.avail_out == 0 && (result == Z_STREAM_END || result == Z_BUF_ERROR);
    ::inflateEnd(&stream);
    return whole;
}

bool zstd_all(std::span<const std::byte> from, std::span<std::byte> to)
{
    const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context{ZSTD_createDCtx(),
                                                                       &ZSTD_freeDCtx};
    if (!context) return false;
    ZSTD_inBuffer in{from.data(), from.size(), 0};
    ZSTD_outBuffer out{to.data(), to.size(), 0};
    while (out.pos < out.size) {
        const std::size_t before = in.pos + out.pos;
        if (ZSTD_isError(ZSTD_decompressStream(context.get(), &out, &in)) != 0) return false;
        if (in.pos + out.pos == before) return false;
    }
    return true;
}

std::vector<std::byte> deflate_all(std::span<const std::byte> from)
{
    z_stream stream{};
    if (::deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, deflate_window, 9,
                       Z_DEFAULT_STRATEGY) != Z_OK) {
        return {};
    }
    std::vector<std::byte> to(from.size() - 1);
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(from.data()));
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = reinterpret_cast<Bytef*>(to.data());
    stream.avail_out = static_cast<uInt>(to.size());
    const bool fits = ::deflate(&stream, Z_FINISH) == Z_STREAM_END;
    to.resize(fits ? stream.total_out : 0);
    ::deflateEnd(&stream);
    return to;
}

}  // namespace

bool decompress(Compression how, std::span<const std::byte> from, std::span<std::byte> to)
{
    return how == Compression::zlib ? inflate_all(from, to) : zstd_all(from, to);
}

std::vector<std::byte> compress(Compression how, std::span<const std::byte> from)
{
    if (how == Compression::zlib) return deflate_all(from);
    std::vector<std::byte> to(from.size() - 1);
    const std::size_t length = ZSTD_compress(to.data(), to.size(), from.data(), from.size(),
                                             ZSTD_CLEVEL_DEFAULT);
    to.resize(ZSTD_isError(length) != 0 ? 0 : length);
    return to;
}

}  // namespace doppel::backends::qcow2
