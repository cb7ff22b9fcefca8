#include "cli/run_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

namespace doppel::cli {

namespace {

// As typed; empty optionals were not given.
struct Typed {
    bool help = false, no_reboot = false;
    std::optional<std::string> engine, switch_at, memory, cpus, kernel, initrd, cmdline, console,
        debug_exit, rng, balloon, virtio_console, vsock;
    std::vector<std::string> disks, scsi_disks, nets, ports, pmems, shares, file_systems;
    std::string stats, lock_step;
};

struct OptionName {
    const char* name;
    const char* value;
    std::optional<std::string> Typed::*field;
    std::vector<std::string> Typed::*list = nullptr;  // instead: may be given several times
};

constexpr std::array option_names{
    OptionName{"--engine", "ENGINE", &Typed::engine},
    OptionName{"--switch-at", "N", &Typed::switch_at},
    OptionName{"--memory", "SIZE", &Typed::memory},
    OptionName{"--cpus", "N", &Typed::cpus},
    OptionName{"--kernel", "FILE", &Typed::kernel},
    OptionName{"--initrd", "FILE", &Typed::initrd},
    OptionName{"--cmdline", "STRING", &Typed::cmdline},
    OptionName{"--console", "WHERE", &Typed::console},
    OptionName{"--disk", "FILE", nullptr, &Typed::disks},
    OptionName{"--scsi-disk", "FILE", nullptr, &Typed::scsi_disks},
    OptionName{"--net", "NETWORK", nullptr, &Typed::nets},
    OptionName{"--share", "DIR", nullptr, &Typed::shares},
    OptionName{"--fs", "vhost-user:SOCKET", nullptr, &Typed::file_systems},
    OptionName{"--rng", "on|off", &Typed::rng},
    OptionName{"--balloon", "SIZE", &Typed::balloon},
    OptionName{"--virtio-console", "WHERE", &Typed::virtio_console},
    OptionName{"--pmem", "FILE", nullptr, &Typed::pmems},
    OptionName{"--vsock", "PATH", &Typed::vsock},
    OptionName{"--port", "NAME=WHERE", nullptr, &Typed::ports},
    OptionName{"--debug-exit", "PORT", &Typed::debug_exit},
};

constexpr const char* see_help = "; see 'doppel help run'";

// CLI11 reports by exception; its texts do not say what to do.
base::Error describe(const CLI::App& app, const CLI::ParseError& error)
{
    const std::vector<std::string> left = app.remaining();
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !left.empty()) {
        const bool option = left.front().starts_with('-');
        return base::usage_error((option ? "Unknown option '" : "Unexpected argument '") +
                                 left.front() + "'" + see_help);
    }
    return base::usage_error(std::string{error.what()} + see_help);
}

// CLI11 takes the argument after "--option=" for its value, and a value that looks like an
// option for an option. In the form returned here it can do neither: "--option=value", or
// "--option" "" for an empty one.
base::Result<Arguments> settle_values(const Arguments& arguments)
{
    Arguments settled;
    std::set<std::string_view> given;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::size_t name_size = std::min(arguments[i].find('='), arguments[i].size());
        const std::string_view name = std::string_view{arguments[i]}.substr(0, name_size);
        const auto option = std::find_if(option_names.begin(), option_names.end(),
                                         [&](const OptionName& o) { return name == o.name; });
        if (option == option_names.end()) {
            settled.push_back(arguments[i]);
            continue;
        }
        if (!given.insert(name).second && option->list == nullptr) {
            return base::usage_error(std::string{name} + ' ' + option->value +
                                     ": given more than once; give it once");
        }
        std::string value;
        if (name_size < arguments[i].size()) {
            value = arguments[i].substr(name_size + 1);
        } else if (i + 1 == arguments.size()) {
            return base::usage_error(std::string{name} + ' ' + option->value +
                                     ": no value given" + see_help);
        } else if (value = arguments[++i]; value.starts_with("--")) {
            return base::usage_error(std::string{name} + ' ' + option->value +
                                     ": no value given, found '" + value +
                                     "'; a value that begins with -- goes after '='");
        }
        if (value.empty()) {
            settled.emplace_back(name);
            settled.emplace_back();
        } else {
            settled.push_back(std::string{name} + '=' + value);
        }
    }
    return settled;
}

base::Result<Typed> read(const Arguments& arguments)
{
    const Arguments settled = TRY(settle_values(arguments));
    Typed typed;
    CLI::App app;
    app.set_help_flag();
    app.add_flag("-h,--help", typed.help);
    for (const OptionName& option : option_names) {
        app.add_option_function<std::string>(
               option.name,
               [&typed, &option](const std::string& value) {
                   if (option.list != nullptr) {
                       (typed.*option.list).push_back(value);
                   } else {
                       typed.*option.field = value;
                   }
               })
            ->trigger_on_parse(option.list != nullptr);
    }
    app.add_flag("--no-reboot", typed.no_reboot);
    app.add_flag("--stats{text}", typed.stats);
    app.add_flag("--lock-step{1}", typed.lock_step);
    try {
        app.parse(Arguments{settled.rbegin(), settled.rend()});
    } catch (const CLI::ParseError& error) {
        return describe(app, error);
    }
    return typed;
}

base::Result<vm::VmConfig> check(const Typed& typed)
{
    vm::VmConfig config;
    if (typed.engine) {
        vm::EngineList engines = TRY(vm::parse_engines(*typed.engine));
        config.engine = engines.first;
        config.next_engines = std::move(engines.next);
    }
    if (typed.switch_at) config.switch_at = TRY(vm::parse_switch_at(*typed.switch_at));
    if (typed.memory) config.memory_bytes = TRY(vm::parse_size("--memory", *typed.memory));
    if (typed.cpus) config.cpus = TRY(vm::parse_cpus(*typed.cpus));
    if (typed.console) config.console = TRY(vm::parse_console(*typed.console));
    if (typed.debug_exit) config.debug_exit_port = TRY(vm::parse_debug_exit(*typed.debug_exit));
    for (const std::string& net : typed.nets) config.nets.push_back(TRY(vm::parse_net(net)));
    for (const std::string& disk : typed.disks) config.disks.push_back(TRY(vm::parse_disk(disk)));
    for (const std::string& disk : typed.scsi_disks) {
        config.scsi_disks.push_back(TRY(vm::parse_scsi_disk(disk)));
    }
    for (const std::string& share : typed.shares) {
        config.file_systems.push_back(TRY(vm::parse_share(share)));
    }
    for (const std::string& fs : typed.file_systems) {
        config.file_systems.push_back(TRY(vm::parse_fs(fs)));
    }
    for (const std::string& port : typed.ports) config.ports.push_back(TRY(vm::parse_port(port)));
    if (typed.virtio_console) TRY(vm::parse_virtio_console(*typed.virtio_console, config));
    if (typed.balloon) config.balloon = TRY(vm::parse_balloon(*typed.balloon));
    for (const std::string& pmem : typed.pmems) config.pmems.push_back(TRY(vm::parse_pmem(pmem)));
    if (typed.vsock) config.vsock = TRY(vm::parse_vsock(*typed.vsock));
    if (typed.rng) config.rng = TRY(vm::parse_rng(*typed.rng));
    config.no_reboot = typed.no_reboot;
    if (!typed.stats.empty()) config.stats = TRY(vm::parse_stats(typed.stats));
    if (!typed.lock_step.empty()) config.lock_step = TRY(vm::parse_lock_step(typed.lock_step));
    if (!typed.kernel || typed.kernel->empty()) {
        return base::usage_error("--kernel FILE: not given; name a bzImage, an ELF file with a "
                                 "PVH note or a multiboot image");
    }
    config.kernel = *typed.kernel;
    if (typed.initrd) {
        if (typed.initrd->empty()) {
            return base::usage_error("--initrd FILE: the name is empty; leave the option out for none");
        }
        config.initrd = *typed.initrd;
    }
    config.cmdline = typed.cmdline.value_or("");
    return config;
}

}  // namespace

base::Result<RunRequest> parse_run(const Arguments& arguments)
{
    Typed typed = TRY(read(arguments));
    if (typed.help) return RunRequest{.help = true, .config = {}};
    return RunRequest{.help = false, .config = TRY(check(typed))};
}

}  // namespace doppel::cli
