#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <boost/json.hpp>
#include <ctime>

#include "backends/block/host_file.h"
#include "backends/block/nbd_file.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "backends/block/qcow2/snapshots.h"
#include "cli/image_arguments.h"
#include "cli/image_commands.h"

namespace doppel::cli {

namespace {

using backends::ImageFormat;
namespace qcow2 = backends::qcow2;

constexpr std::array options{
    ImageOption{"--format", "-f", true},
    ImageOption{"--json", "", false},
};

struct Facts {
    std::string path;
    ImageFormat format = ImageFormat::raw;
    std::uint64_t disk_size = 0;
    std::uint64_t file_bytes = 0;
    qcow2::Header header;  // of a qcow2 image
    std::string backing_path;
    std::vector<qcow2::Snapshot> snapshots;
};

base::Result<Facts> look_at(const ImageArguments& arguments)
{
    Facts facts;
    facts.path = arguments.files[0];
    std::unique_ptr<backends::ByteFile> file;
    if (backends::is_nbd_uri(facts.path)) {
        file = TRY(backends::NbdFile::open(facts.path, true));
    } else {
        backends::HostFileOptions host;
        host.read_only = true;
        host.lock = backends::HostFileOptions::Lock::none;
        file = TRY(backends::HostFile::open(facts.path, host));
    }
    facts.file_bytes = file->allocated_bytes();
    const std::string format = arguments.value("--format");
    facts.format = format.empty() ? TRY(backends::probe_format(*file))
                                  : TRY(parse_image_format("--format", format));
    if (facts.format == ImageFormat::raw) {
        facts.disk_size = file->size();
        return facts;
    }
    auto header = qcow2::Qcow2Image::read_header(*file);
    if (!header) return header.error().with_context("'" + facts.path + "'");
    facts.header = *header;
    facts.disk_size = facts.header.size;
    if (!facts.header.backing_file.empty()) {
        const auto where = backends::backing_path(facts.path, facts.header.backing_file);
        if (where) facts.backing_path = *where;
    }
    auto snapshots = qcow2::read_snapshots(*file, facts.header);
    if (!snapshots) return snapshots.error().with_context("'" + facts.path + "'");
    facts.snapshots = *snapshots;
    return facts;
}

std::string_view compression_name(const qcow2::Header& header)
{
    return header.compression == qcow2::Compression::zstd ? "zstd" : "zlib";
}

// Names in images are strangers' text; a terminal must not obey them.
std::string printable(std::string_view text)
{
    std::string safe{text};
    for (char& c : safe) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) c = '?';
    }
    return safe;
}

std::string as_text(const Facts& facts)
{
    std::string text;
    const auto line = [&](std::string_view name, std::string_view value) {
        text += fmt::format("{:<16}{}\n", name, printable(value));
    };
    line("file", facts.path);
    line("format", facts.format == ImageFormat::raw
                       ? "raw" : fmt::format("qcow2, version {}", facts.header.version));
    line("disk size", size_text(facts.disk_size));
    if (facts.file_bytes != 0) line("space taken", size_text(facts.file_bytes));
    if (facts.format == ImageFormat::raw) return text;
    line("cluster size", size_text(facts.header.cluster_size()));
    line("compression", compression_name(facts.header));
    if (!facts.header.backing_file.empty()) {
        line("backing file", facts.header.backing_file);
        if (facts.backing_path != facts.header.backing_file && !facts.backing_path.empty()) {
            line("", "that is, " + facts.backing_path);
        }
        if (!facts.header.backing_format.empty()) {
            line("backing format", facts.header.backing_format);
        }
    }
    if ((facts.header.incompatible & qcow2::incompatible_dirty) != 0) {
        line("state", "in use, or not closed properly");
    }
    if ((facts.header.incompatible & qcow2::incompatible_corrupt) != 0) {
        line("state", "marked as corrupt");
    }
    for (const auto& snapshot : facts.snapshots) {
        line("snapshot", fmt::format("{}  {}  {:%Y-%m-%d %H:%M:%S} UTC", snapshot.id, snapshot.name,
                                     fmt::gmtime(static_cast<std::time_t>(snapshot.seconds))));
    }
    return text;
}

std::string as_json(const Facts& facts)
{
    boost::json::object object;
    object["filename"] = facts.path;
    object["format"] = std::string{format_name(facts.format)};
    object["virtual-size"] = facts.disk_size;
    object["actual-size"] = facts.file_bytes;
    if (facts.format == ImageFormat::qcow2) {
        object["cluster-size"] = facts.header.cluster_size();
        object["dirty-flag"] = (facts.header.incompatible & qcow2::incompatible_dirty) != 0;
        if (!facts.header.backing_file.empty()) {
            object["backing-filename"] = facts.header.backing_file;
            object["full-backing-filename"] = facts.backing_path;
            if (!facts.header.backing_format.empty()) {
                object["backing-filename-format"] = facts.header.backing_format;
            }
        }
        boost::json::array snapshots;
        for (const auto& snapshot : facts.snapshots) {
            snapshots.push_back({{"id", snapshot.id},
                                 {"name", snapshot.name},
                                 {"vm-state-size", snapshot.vm_state_size},
                                 {"date-sec", snapshot.seconds}});
        }
        if (!snapshots.empty()) object["snapshots"] = snapshots;
        boost::json::object data;
        data["compat"] = facts.header.version == 2 ? "0.10" : "1.1";
        data["compression-type"] = std::string{compression_name(facts.header)};
        data["refcount-bits"] = 1u << facts.header.refcount_order;
        data["corrupt"] = (facts.header.incompatible & qcow2::incompatible_corrupt) != 0;
        object["format-specific"] = {{"type", "qcow2"}, {"data", data}};
    }
    return boost::json::serialize(object) + "\n";
}

}  // namespace

int image_info(const Arguments& arguments)
{
    const auto parsed = parse_image("info", arguments, options);
    if (!parsed) return fail(parsed.error());
    if (parsed->has("--help")) return print(image_info_help);
    if (parsed->files.size() != 1) {
        return fail(base::usage_error("image info: expected one FILE; see 'doppel image info "
                                      "--help'"));
    }
    const auto facts = look_at(*parsed);
    if (!facts) return fail(facts.error());
    return print(parsed->has("--json") ? as_json(*facts) : as_text(*facts));
}

}  // namespace doppel::cli
