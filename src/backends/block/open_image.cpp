#include "backends/block/open_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <utility>

#include "backends/block/host_file.h"
#include "backends/block/nbd_file.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "backends/block/raw_image.h"

namespace doppel::backends {

namespace {

constexpr std::size_t most_backing_files = 64;

using FileId = std::pair<std::uint64_t, std::uint64_t>;  // device, inode

struct Chain {
    std::vector<FileId> files;
};

base::Result<void> add_to_chain(Chain& chain, const std::string& path)
{
    if (chain.files.size() > most_backing_files) {
        return base::io_error("There are more than 64 backing files in a row; merge some with "
                              "'qemu-img rebase' or 'doppel image convert'");
    }
    struct stat about {};
    if (::stat(path.c_str(), &about) != 0) return {};  // opening it tells why
    const FileId id{about.st_dev, about.st_ino};
    if (std::find(chain.files.begin(), chain.files.end(), id) != chain.files.end()) {
        return base::io_error("'" + path + "' is its own backing file");
    }
    chain.files.push_back(id);
    return {};
}

base::Result<OpenedImage> open_in_chain(std::unique_ptr<ByteFile> file, const BlockOptions& options,
                                        Chain& chain);

base::Result<std::unique_ptr<Image>> open_backing(const qcow2::Header& header,
                                                  const BlockOptions& above, Chain& chain)
{
    const std::string where = TRY(backing_path(above.path, header.backing_file));
    const auto context = [&](const base::Error& error) {
        return error.with_context("Backing file of '" + above.path + "'");
    };
    BlockOptions options;
    options.path = where;
    options.cache = above.cache;
    options.read_only = true;
    if (!header.backing_format.empty()) {
        if (header.backing_format == "raw") options.format = ImageFormat::raw;
        else if (header.backing_format == "qcow2") options.format = ImageFormat::qcow2;
        else return context(base::io_error("Its format is '" + header.backing_format +
                                           "'; doppel knows raw and qcow2"));
    }
    if (auto added = add_to_chain(chain, where); !added) return context(added.error());
    auto file = open_byte_file(options);
    if (!file) return context(file.error());
    if (options.format == ImageFormat::probe) {
        // Whoever wrote to a raw disk may have made it look like an image that names any file.
        auto looked = qcow2::Qcow2Image::read_header(**file);
        if (TRY(probe_format(**file)) == ImageFormat::qcow2 && looked &&
            !looked->backing_file.empty()) {
            return context(base::io_error(
                "'" + where + "' has a backing file itself, and '" + above.path + "' does not say "
                "that it is qcow2; if you trust it: qemu-img rebase -u -F qcow2 -b FILE"));
        }
    }
    auto opened = open_in_chain(std::move(*file), options, chain);
    if (!opened) return context(opened.error());
    return std::move(opened->image);
}

base::Result<OpenedImage> open_qcow2(std::unique_ptr<ByteFile> file, const BlockOptions& options,
                                     Chain& chain)
{
    const auto named = [&](const base::Error& error) {
        return error.with_context("Cannot open '" + options.path + "'");
    };
    auto header = qcow2::Qcow2Image::read_header(*file);
    if (!header) return named(header.error());
    qcow2::Qcow2Image::Options how;
    how.read_only = options.read_only;
    how.snapshot = options.snapshot;
    if (!header->backing_file.empty()) how.backing = TRY(open_backing(*header, options, chain));
    auto image = qcow2::Qcow2Image::open(std::move(file), std::move(how));
    if (!image) return named(image.error());
    return OpenedImage{std::move(*image), ImageFormat::qcow2};
}

base::Result<OpenedImage> open_in_chain(std::unique_ptr<ByteFile> file, const BlockOptions& options,
                                        Chain& chain)
{
    const bool guessed = options.format == ImageFormat::probe;
    const ImageFormat format = guessed ? TRY(probe_format(*file)) : options.format;
    if (format == ImageFormat::qcow2) return open_qcow2(std::move(file), options, chain);
    if (!options.snapshot.empty()) {
        return base::usage_error("'" + options.path + "' is raw, which has no snapshots");
    }
    const auto origin = guessed ? RawImage::Origin::guessed : RawImage::Origin::named;
    return OpenedImage{std::make_unique<RawImage>(std::move(file), origin), ImageFormat::raw};
}

}  // namespace

bool is_nbd_uri(std::string_view path)
{
    return path.starts_with("nbd://") || path.starts_with("nbds://") ||
           path.starts_with("nbd+unix://") || path.starts_with("nbds+unix://");
}

base::Result<std::string> backing_path(std::string_view image, std::string_view backing)
{
    if (backing.starts_with("file:")) backing.remove_prefix(5);
    if (backing.starts_with('/')) return std::string{backing};
    // An image may come from strangers: it names files, not servers or options.
    const auto slash_or_colon = backing.find_first_of("/:");
    if (slash_or_colon != std::string_view::npos && backing[slash_or_colon] == ':') {
        return base::io_error("The backing file of '" + std::string{image} + "' is '" +
                              std::string{backing} + "', which is not a plain file name");
    }
    const auto slash = image.rfind('/');
    const std::string folder{slash == std::string_view::npos ? "" : image.substr(0, slash + 1)};
    return folder + std::string{backing};
}

base::Result<std::unique_ptr<ByteFile>> open_byte_file(const BlockOptions& options)
{
    if (is_nbd_uri(options.path)) {
        if (options.cache == CacheMode::none) {
            return base::usage_error("cache=none is for files of this host, not for '" +
                                     options.path + "'");
        }
        return std::unique_ptr<ByteFile>{TRY(NbdFile::open(options.path, options.read_only))};
    }
    HostFileOptions host;
    host.read_only = options.read_only;
    host.cache = options.cache;
    return std::unique_ptr<ByteFile>{TRY(HostFile::open(options.path, host))};
}

base::Result<ImageFormat> probe_format(ByteFile& file)
{
    std::array<std::byte, 4> first{};
    if (file.size() < first.size()) return ImageFormat::raw;
    if (const int error = file.read_at(0, first); error != 0) {
        return base::errno_error(base::ErrorKind::io, "Cannot read '" + file.name() + "'", error);
    }
    const iovec buffer{first.data(), first.size()};
    return looks_like_image({&buffer, 1}) ? ImageFormat::qcow2 : ImageFormat::raw;
}

base::Result<OpenedImage> open_image(const BlockOptions& options)
{
    return open_image(TRY(open_byte_file(options)), options);
}

base::Result<OpenedImage> open_image(std::unique_ptr<ByteFile> file, const BlockOptions& options)
{
    if (!options.snapshot.empty() && !options.read_only) {
        return base::usage_error("A snapshot can only be read; add readonly");
    }
    Chain chain;
    if (!is_nbd_uri(options.path)) TRY(add_to_chain(chain, options.path));
    return open_in_chain(std::move(file), options, chain);
}

}  // namespace doppel::backends
