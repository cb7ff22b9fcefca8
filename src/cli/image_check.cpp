#include <fmt/format.h>

#include <array>
#include <boost/json.hpp>

#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "cli/image_arguments.h"
#include "cli/image_commands.h"

namespace doppel::cli {

namespace {

namespace qcow2 = backends::qcow2;
using qcow2::CheckReport;

constexpr int exit_damaged = 4;
constexpr int exit_leaks = 5;

constexpr std::array options{
    ImageOption{"--format", "-f", true},
    ImageOption{"--repair", "-r", true},
    ImageOption{"--json", "", false},
};

base::Result<CheckReport> check(const ImageArguments& arguments)
{
    const std::string repair = arguments.value("--repair");
    if (arguments.has("--repair") && repair != "leaks" && repair != "all") {
        return base::usage_error("--repair " + repair + ": expected leaks or all");
    }
    backends::BlockOptions block;
    block.path = arguments.files[0];
    block.read_only = repair.empty();
    const auto file = TRY(backends::open_byte_file(block));
    const std::string format = arguments.value("--format");
    const auto kind = format.empty() ? TRY(backends::probe_format(*file))
                                     : TRY(parse_image_format("--format", format));
    if (kind == backends::ImageFormat::raw) {
        return base::usage_error("'" + block.path + "' is raw, which has nothing to check");
    }
    const auto context = [&](const base::Error& error) {
        return error.with_context("'" + block.path + "'");
    };
    auto header = qcow2::Qcow2Image::read_header(*file);
    if (!header) return context(header.error());
    const auto report =
        repair.empty() ? qcow2::check_image(*file, *header)
                       : qcow2::repair_image(*file, *header, repair == "all" ? qcow2::Repair::all
                                                                             : qcow2::Repair::leaks);
    if (!report) return context(report.error());
    return report;
}

std::string as_text(const CheckReport& report)
{
    std::string text;
    for (const std::string& message : report.messages) text += message + "\n";
    if (report.corruptions > report.messages.size()) {
        text += fmt::format("and {} more\n", report.corruptions - report.messages.size());
    }
    const auto count = [&](std::string_view what, std::uint64_t found, std::uint64_t fixed) {
        if (found == 0) return;
        text += fmt::format("{} {}{}\n", found, what,
                            fixed == 0 ? "" : fmt::format(", {} repaired", fixed));
    };
    count("errors", report.corruptions, report.fixed_corruptions);
    count("leaked clusters (no harm; --repair leaks gives them back)", report.leaks,
          report.fixed_leaks);
    if (report.corruptions == 0 && report.leaks == 0) text += "No errors were found.\n";
    const double percent = report.total_clusters == 0
                               ? 0.0
                               : 100.0 * static_cast<double>(report.allocated_clusters) /
                                     static_cast<double>(report.total_clusters);
    text += fmt::format("{} of {} clusters allocated ({:.1f}%), {} compressed\n",
                        report.allocated_clusters, report.total_clusters, percent,
                        report.compressed_clusters);
    return text;
}

std::string as_json(const std::string& path, const CheckReport& report)
{
    boost::json::object object;
    object["filename"] = path;
    object["format"] = "qcow2";
    object["check-errors"] = 0;
    object["corruptions"] = report.corruptions - report.fixed_corruptions;
    object["leaks"] = report.leaks - report.fixed_leaks;
    object["corruptions-fixed"] = report.fixed_corruptions;
    object["leaks-fixed"] = report.fixed_leaks;
    object["total-clusters"] = report.total_clusters;
    object["allocated-clusters"] = report.allocated_clusters;
    object["compressed-clusters"] = report.compressed_clusters;
    object["image-end-offset"] = report.image_end;
    boost::json::array messages;
    for (const std::string& message : report.messages) messages.emplace_back(message);
    object["messages"] = messages;
    return boost::json::serialize(object) + "\n";
}

}  // namespace

int image_check(const Arguments& arguments)
{
    const auto parsed = parse_image("check", arguments, options);
    if (!parsed) return fail(parsed.error());
    if (parsed->has("--help")) return print(image_check_help);
    if (parsed->files.size() != 1) {
        return fail(base::usage_error("image check: expected one FILE; see 'doppel image check "
                                      "--help'"));
    }
    const auto report = check(*parsed);
    if (!report) return fail(report.error());
    const int printed = print(parsed->has("--json") ? as_json(parsed->files[0], *report)
                                                    : as_text(*report));
    if (printed != exit_ok) return printed;
    if (report->corruptions > report->fixed_corruptions) return exit_damaged;
    return report->leaks > report->fixed_leaks ? exit_leaks : exit_ok;
}

}  // namespace doppel::cli
