#include <fmt/format.h>

#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "cli/choose_engine.h"
#include "cli/command.h"
#include "cli/run_options.h"
#include "cli/stats.h"
#include "control/runtime_dir.h"
#include "control/server.h"
#include "control/stats_message.h"
#include "vm/vm.h"

namespace doppel::cli {

namespace {

// The console owns stdout while the guest runs; what doppel itself says goes to stderr.
void say(const std::string& line)
{
    static_cast<void>(std::fputs(line.c_str(), stderr));
}

base::Result<void> check_stdout(const vm::VmConfig& config)
{
    if (config.console.kind == vm::ConsoleKind::stdio && !stdout_is_open()) {
        return base::usage_error("--console stdio: standard output is closed; redirect it, or "
                                 "use --console none");
    }
    return {};
}

// For `doppel stats`. A host without a place for it is no reason not to run; the command says
// what is missing.
std::unique_ptr<control::Server> listen(vm::Vm& machine)
{
    const auto dir = control::runtime_dir(control::Missing::create);
    if (!dir) return nullptr;
    auto server = control::Server::create(
        machine.event_loop(), control::socket_path(*dir, ::getpid()),
        [&machine](std::function<void(vm::VmStats)> reply) { machine.request_stats(std::move(reply)); });
    return server ? std::move(*server) : nullptr;
}

// On the fastest engine that works. A host may refuse an engine only when it starts.
base::Result<std::unique_ptr<vm::Vm>> create_on_fastest(vm::VmConfig config)
{
    Host host = probe_host();
    for (;;) {
        const EngineChoice choice = choose_engine(host);
        config.engine = choice.kind;
        auto machine = vm::Vm::create(config);
        const bool last = choice.kind != engine::EngineKind::translate;
        if (!machine && !last && machine.error().kind() == base::ErrorKind::host) {
            host.translate_problem = machine.error().text();
            continue;
        }
        // Only now: bad input gets one line, its own.
        if (machine) say(fmt::format("doppel: engine {}: {}\n", engine::name(choice.kind), choice.reason));
        return machine;
    }
}

base::Result<int> run(const vm::VmConfig& config)
{
    TRY(check_stdout(config));
    TRY(vm::validate(config, vm::host_memory_bytes()));
    // Before and after the machine runs, the signal that changes its engine means nothing.
    if (!config.next_engines.empty()) static_cast<void>(std::signal(SIGUSR2, SIG_IGN));
    const auto machine = TRY(config.engine ? vm::Vm::create(config) : create_on_fastest(config));
    const auto control = listen(*machine);
    const vm::VmResult result = machine->run();
    switch (result.kind) {
        case vm::VmResult::Kind::triple_fault:
            say(fmt::format("doppel: The guest ended badly: {}\n", result.text));
            break;
        case vm::VmResult::Kind::failed: say(fmt::format("doppel: {}\n", result.text)); break;
        default: break;
    }
    if (config.stats == vm::StatsMode::text) say(stats_text(machine->stats(), "doppel: "));
    if (config.stats == vm::StatsMode::json) say(control::stats_json(machine->stats()));
    return result.exit_status();
}

}  // namespace

int run_command(const Arguments& arguments)
{
    const base::Result<RunRequest> request = parse_run(arguments);
    if (!request) return fail(request.error());
    if (request->help) return print(run_help);
    const base::Result<int> status = run(request->config);
    return status ? *status : fail(status.error());
}

}  // namespace doppel::cli
