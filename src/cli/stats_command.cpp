// doppel stats: what a running VM counts, asked through its control socket.
#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <optional>
#include <thread>

#include "cli/command.h"
#include "cli/stats.h"
#include "control/client.h"
#include "control/runtime_dir.h"
#include "control/stats_message.h"

namespace doppel::cli {

namespace {

constexpr const char* see_help = "; see 'doppel help stats'";
constexpr double longest_watch = 86400;

struct StatsRequest {
    bool help = false, json = false;
    std::optional<pid_t> pid;
    std::optional<std::chrono::duration<double>> watch;
};

template <typename T>
std::optional<T> number(const std::string& text)
{
    T value{};
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, value);
    return parsed.ec == std::errc{} && parsed.ptr == end ? std::optional{value} : std::nullopt;
}

base::Result<std::chrono::duration<double>> parse_watch(const std::string& text)
{
    const auto seconds = number<double>(text);
    if (!seconds || !(*seconds >= 0.1) || *seconds > longest_watch) {
        return base::usage_error("--watch " + text + ": not a number of seconds; use one from 0.1 to 86400");
    }
    return std::chrono::duration<double>{*seconds};
}

base::Result<StatsRequest> parse(const Arguments& arguments)
{
    StatsRequest request;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (argument == "--help" || argument == "-h") {
            request.help = true;
        } else if (argument == "--json") {
            request.json = true;
        } else if (argument.starts_with("--watch=")) {
            request.watch = TRY(parse_watch(argument.substr(argument.find('=') + 1)));
        } else if (argument == "--watch") {
            if (++i == arguments.size()) {
                return base::usage_error(std::string{"--watch SECONDS: no value given"} + see_help);
            }
            request.watch = TRY(parse_watch(arguments[i]));
        } else if (argument.starts_with('-')) {
            return base::usage_error("Unknown option '" + argument + "'" + see_help);
        } else if (request.pid) {
            return base::usage_error("Unexpected argument '" + argument + "': one VM at a time" + see_help);
        } else {
            const auto pid = number<pid_t>(argument);
            if (!pid || *pid <= 0) {
                return base::usage_error("'" + argument + "' is not the number of a process" + see_help);
            }
            request.pid = *pid;
        }
    }
    return request;
}

base::Result<pid_t> only_one(const std::string& dir)
{
    const std::vector<pid_t> running = control::running_vms(dir);
    if (running.size() == 1) return running.front();
    if (running.empty()) return base::usage_error("No VM of this user is running; nothing listens in " + dir);
    std::string list;
    for (const pid_t pid : running) list += (list.empty() ? "" : ", ") + std::to_string(pid);
    return base::usage_error("Several VMs are running; name one of the processes " + list);
}

base::Result<int> show(const StatsRequest& request)
{
    const std::string dir = TRY(control::runtime_dir(control::Missing::fail));
    const pid_t pid = request.pid ? *request.pid : TRY(only_one(dir));
    control::Client client = TRY(control::Client::connect(dir, pid));
    for (bool first = true;; first = false) {
        const std::optional<vm::VmStats> stats = TRY(client.stats());
        if (!stats && first) return base::host_error(fmt::format("The VM of process {} ended", pid));
        if (!stats) return int{exit_ok};
        const std::string text = request.json ? control::stats_json(*stats) : stats_text(*stats, "");
        const int status = print(first || request.json ? text : "\n" + text);
        if (status != exit_ok || !request.watch) return status;
        std::this_thread::sleep_for(*request.watch);
    }
}

}  // namespace

int stats_command(const Arguments& arguments)
{
    const auto request = parse(arguments);
    if (!request) return fail(request.error());
    if (request->help) return print(stats_help);
    const auto status = show(*request);
    return status ? *status : fail(status.error());
}

}  // namespace doppel::cli
