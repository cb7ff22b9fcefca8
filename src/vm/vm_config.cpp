#include "vm/vm_config.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "base/option_text.h"

namespace doppel::vm {

namespace {

// Less cannot hold what a PC must have below 1 MiB plus any kernel.
constexpr std::uint64_t minimum_memory = std::uint64_t{2} << 20;
constexpr std::uint64_t page_size = 4096;

// The whole of `text` as an unsigned number.
template <typename T>
std::optional<T> parse_number(std::string_view text, int base = 10)
{
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
    return value;
}

// What commas separate; one part at least, any of which may be empty.
std::vector<std::string_view> parts(std::string_view text)
{
    std::vector<std::string_view> list;
    for (;;) {
        const std::size_t comma = text.find(',');
        list.push_back(text.substr(0, comma));
        if (comma == std::string_view::npos) return list;
        text.remove_prefix(comma + 1);
    }
}

std::vector<engine::EngineKind> engines_of(const VmConfig& config)
{
    std::vector<engine::EngineKind> engines = config.next_engines;
    if (config.engine) engines.insert(engines.begin(), *config.engine);
    return engines;
}

base::Result<void> validate_lock_step(const VmConfig& config)
{
    const auto engines = engines_of(config);
    const bool translates =
        std::count(engines.begin(), engines.end(), engine::EngineKind::translate) != 0;
    if (config.lock_step == 0 || translates) return {};
    return base::usage_error("--lock-step: checks translated code; add --engine translate");
}

base::Result<void> validate_scsi(const VmConfig& config)
{
    const std::vector<DiskSpec>& disks = config.scsi_disks;
    if (disks.size() > most_scsi_disks) {
        return base::usage_error(fmt::format(
            "--scsi-disk: {} disks are given; there is room for {}", disks.size(), most_scsi_disks));
    }
    for (std::size_t i = 1; i < disks.size(); ++i) {
        if (disks[i].virtio == VirtioOptions{} || disks[i].virtio == disks[0].virtio) continue;
        return base::usage_error(
            "--scsi-disk: transport, legacy, access-platform and without are for the host that all "
            "disks are at; give them to the first disk only");
    }
    return {};
}

// Engines that take turns: each can, and those that are left at a count do count.
base::Result<void> validate_switches(const VmConfig& config)
{
    if (config.next_engines.empty()) {
        if (config.switch_at.empty()) return {};
        return base::usage_error(
            "--switch-at: there is one engine only; give several, such as "
            "--engine interpret,translate");
    }
    if (!config.engine) return base::usage_error("--engine: the first of several is missing");
    const std::vector<engine::EngineKind> engines = engines_of(config);
    for (const engine::EngineKind kind : engines) {
        if (kind == engine::EngineKind::kvm) {
            return base::usage_error(
                "--engine: kvm takes no turns with other engines, since it has its interrupt "
                "controllers in the host's kernel; use interpret and translate, or kvm alone");
        }
    }
    for (std::size_t i = 0; i < config.switch_at.size(); ++i) {
        const engine::EngineKind kind = engines[i % engines.size()];
        if (kind != engine::EngineKind::interpret) {
            return base::usage_error(fmt::format(
                "--switch-at: number {} is for {}, which does not count instructions; leave it "
                "out, and end that engine's turn with SIGUSR2",
                i + 1, engine::name(kind)));
        }
    }
    return {};
}

unsigned suffix_shift(char suffix)
{
    switch (suffix) {
    case 'k': case 'K': return 10;
    case 'm': case 'M': return 20;
    case 'g': case 'G': return 30;
    case 't': case 'T': return 40;
    default: return 0;
    }
}

std::string mebibytes(std::uint64_t bytes) { return fmt::format("{}M", bytes >> 20); }

}  // namespace

base::Result<std::optional<engine::EngineKind>> parse_engine(std::string_view text)
{
    using Kind = std::optional<engine::EngineKind>;
    if (text == "auto") return Kind{};
    if (text == "kvm") return Kind{engine::EngineKind::kvm};
    if (text == "translate") return Kind{engine::EngineKind::translate};
    if (text == "interpret") return Kind{engine::EngineKind::interpret};
    return base::usage_error(fmt::format(
        "--engine {}: no such engine; use auto, kvm, translate or interpret", text));
}

base::Result<EngineList> parse_engines(std::string_view text)
{
    EngineList list;
    const std::vector<std::string_view> names = parts(text);
    list.first = TRY(parse_engine(names.front()));
    for (std::size_t i = 1; i < names.size(); ++i) {
        const auto next = TRY(parse_engine(names[i]));
        if (!next || !list.first) {
            return base::usage_error(fmt::format(
                "--engine {}: auto is for one engine; name each engine that the guest changes to",
                text));
        }
        list.next.push_back(*next);
    }
    return list;
}

base::Result<std::vector<std::uint64_t>> parse_switch_at(std::string_view text)
{
    std::vector<std::uint64_t> counts;
    for (const std::string_view part : parts(text)) {
        const auto count = parse_number<std::uint64_t>(part);
        if (!count || *count == 0) {
            return base::usage_error(fmt::format(
                "--switch-at {}: not numbers of instructions; use numbers from 1 on, with commas "
                "between them",
                text));
        }
        counts.push_back(*count);
    }
    return counts;
}

base::Result<std::uint64_t> parse_lock_step(std::string_view text)
{
    const auto number = parse_number<std::uint64_t>(text);
    if (!number || *number == 0) {
        return base::usage_error(fmt::format(
            "--lock-step={}: not a number from 1 on; --lock-step checks every block, "
            "--lock-step=N one in N",
            text));
    }
    return *number;
}

base::Result<std::uint64_t> parse_size(std::string_view option, std::string_view text)
{
    const base::Error error = base::usage_error(fmt::format(
        "{} {}: not a size; use a number with K, M or G, such as 512M", option, text));
    if (text.empty()) return error;
    const unsigned shift = suffix_shift(text.back());
    const auto number = parse_number<std::uint64_t>(shift == 0 ? text : text.substr(0, text.size() - 1));
    if (!number) return error;
    if (*number > (~std::uint64_t{0} >> shift)) {
        return base::usage_error(fmt::format("{} {}: too large for any machine", option, text));
    }
    return *number << shift;
}

base::Result<unsigned> parse_cpus(std::string_view text)
{
    const auto number = parse_number<unsigned>(text);
    if (!number || *number == 0) {
        return base::usage_error(fmt::format("--cpus {}: not a number of CPUs; use 1 to 64", text));
    }
    return *number;
}

base::Result<ConsoleSpec> parse_console(std::string_view text)
{
    if (text == "stdio") return ConsoleSpec{ConsoleKind::stdio, {}};
    if (text == "none") return ConsoleSpec{ConsoleKind::none, {}};
    for (const auto& [prefix, kind] : {std::pair{std::string_view{"file:"}, ConsoleKind::file},
                                       std::pair{std::string_view{"socket:"}, ConsoleKind::socket}}) {
        if (!text.starts_with(prefix)) continue;
        if (text.size() == prefix.size()) {
            return base::usage_error(fmt::format("--console {}: a path must follow the colon", text));
        }
        return ConsoleSpec{kind, std::string{text.substr(prefix.size())}};
    }
    return base::usage_error(fmt::format(
        "--console {}: not a console; use stdio, none, file:PATH or socket:PATH", text));
}

std::string console_text(const ConsoleSpec& spec)
{
    switch (spec.kind) {
    case ConsoleKind::stdio: return "stdio";
    case ConsoleKind::none: return "none";
    case ConsoleKind::file: return "file:" + spec.path;
    case ConsoleKind::socket: return "socket:" + spec.path;
    }
    return "none";
}

base::Result<std::uint16_t> parse_debug_exit(std::string_view text)
{
    const bool hex = text.starts_with("0x") || text.starts_with("0X");
    const auto number = parse_number<std::uint16_t>(hex ? text.substr(2) : text, hex ? 16 : 10);
    if (!number) {
        return base::usage_error(fmt::format(
            "--debug-exit {}: not a port; use a number from 0 to 0xffff, such as 0xf4", text));
    }
    return *number;
}

base::Result<DiskSpec> parse_disk(std::string_view text)
{
    const auto parse = [](std::string rest) -> base::Result<DiskSpec> {
        const VirtioOptions virtio = TRY(take_virtio_options(rest));
        if (is_vhost_user(rest)) {
            return DiskSpec{{}, TRY(parse_vhost_user_disk(rest)), virtio};
        }
        return DiskSpec{TRY(backends::parse_disk_options(rest)), {}, virtio};
    };
    auto spec = parse(std::string{text});
    if (!spec) return spec.error().with_context(fmt::format("--disk {}", text));
    return spec;
}

base::Result<DiskSpec> parse_scsi_disk(std::string_view text)
{
    const auto parse = [](std::string rest) -> base::Result<DiskSpec> {
        const VirtioOptions virtio = TRY(take_virtio_options(rest));
        DiskSpec spec{TRY(backends::parse_disk_options(rest)), {}, virtio};
        if (spec.disk.queues != 1) return base::usage_error("queues is for --disk; leave it out");
        return spec;
    };
    auto spec = parse(std::string{text});
    if (!spec) return spec.error().with_context(fmt::format("--scsi-disk {}", text));
    return spec;
}

base::Result<NetSpec> parse_net(std::string_view text)
{
    const auto parse = [](std::string rest) -> base::Result<NetSpec> {
        const VirtioOptions virtio = TRY(take_virtio_options(rest));
        return NetSpec{TRY(backends::parse_net_options(rest)), virtio};
    };
    auto spec = parse(std::string{text});
    if (!spec) return spec.error().with_context(fmt::format("--net {}", text));
    return spec;
}

base::Result<RngSpec> parse_rng(std::string_view text)
{
    std::string rest{text};
    const auto virtio = take_virtio_options(rest);
    if (!virtio) return virtio.error().with_context(fmt::format("--rng {}", text));
    if (rest != "on" && rest != "off") {
        return base::usage_error(fmt::format("--rng {}: expected on or off", text));
    }
    return RngSpec{rest == "on", *virtio};
}

base::Result<BalloonSpec> parse_balloon(std::string_view text)
{
    std::string rest{text};
    BalloonSpec spec;
    const auto parse = [&]() -> base::Result<void> {
        spec.virtio = TRY(take_virtio_options(rest));
        // Pages are named by guest-physical numbers whatever the driver accepts, and Linux
        // refuses the bit.
        if (spec.virtio.access_platform) {
            return base::usage_error("access-platform=on: a balloon has no use for it; leave it out");
        }
        std::string_view left = rest;
        const std::string_view size = left.substr(0, left.find(','));
        left.remove_prefix(size.size());
        spec.bytes = TRY(parse_size("size", size));
        while (!left.empty()) {
            left.remove_prefix(1);
            const std::string_view part = left.substr(0, left.find(','));
            left.remove_prefix(part.size());
            if (part == "reporting=off") spec.reporting = false;
            else if (part == "deflate-on-oom=off") spec.deflate_on_oom = false;
            else if (part != "reporting=on" && part != "deflate-on-oom=on") {
                return base::usage_error(fmt::format(
                    "'{}': expected reporting=on|off or deflate-on-oom=on|off", part));
            }
        }
        return {};
    };
    if (auto result = parse(); !result) {
        return result.error().with_context(fmt::format("--balloon {}", text));
    }
    return spec;
}

base::Result<PmemSpec> parse_pmem(std::string_view text)
{
    const auto parse = [](std::string rest) -> base::Result<PmemSpec> {
        PmemSpec spec;
        spec.virtio = TRY(take_virtio_options(rest));
        std::string_view left = rest;
        spec.path = base::take_option_part(left);
        if (spec.path.empty()) return base::usage_error("No file named");
        while (!left.empty()) {
            const auto [key, value] = base::split_key(base::take_option_part(left));
            if (key == "size") {
                spec.size = TRY(parse_size("size", value));
            } else if (key == "readonly") {
                spec.read_only = TRY(base::on_or_off(key, value));
            } else {
                return base::usage_error(
                    fmt::format("There is no '{}'; the keys are size and readonly", key));
            }
        }
        return spec;
    };
    auto spec = parse(std::string{text});
    if (!spec) return spec.error().with_context(fmt::format("--pmem {}", text));
    return spec;
}

base::Result<VsockSpec> parse_vsock(std::string_view text)
{
    const auto parse = [](std::string rest) -> base::Result<VsockSpec> {
        VsockSpec spec;
        spec.virtio = TRY(take_virtio_options(rest));
        std::string_view left = rest;
        spec.path = base::take_option_part(left);
        if (spec.path.empty()) return base::usage_error("No path named");
        while (!left.empty()) {
            const auto [key, value] = base::split_key(base::take_option_part(left));
            const auto cid = parse_number<std::uint32_t>(value);
            if (key != "cid") {
                return base::usage_error(fmt::format("There is no '{}'; the key is cid", key));
            }
            // 0 to 2 and the largest one mean something else.
            if (!cid || *cid <= 2 || *cid == ~std::uint32_t{0}) {
                return base::bad_value(key, value, "a number from 3 to 4294967294");
            }
            spec.cid = *cid;
        }
        return spec;
    };
    auto spec = parse(std::string{text});
    if (!spec) return spec.error().with_context(fmt::format("--vsock {}", text));
    return spec;
}

base::Result<PortSpec> parse_port(std::string_view text)
{
    const std::size_t equals = text.find('=');
    const std::string_view name = text.substr(0, std::min(equals, text.size()));
    const bool printable = std::all_of(name.begin(), name.end(),
                                       [](char c) { return c > 0x20 && c < 0x7f; });
    if (equals == text.npos || name.empty() || name.size() > 64 || !printable) {
        return base::usage_error(fmt::format(
            "--port {}: expected NAME=WHERE, such as org.qemu.guest_agent.0=socket:PATH", text));
    }
    auto console = parse_console(text.substr(equals + 1));
    if (!console) return console.error().with_context(fmt::format("--port {}", text));
    return PortSpec{std::string{name}, *console};
}

base::Result<void> parse_virtio_console(std::string_view text, VmConfig& config)
{
    std::string rest{text};
    const auto virtio = take_virtio_options(rest);
    if (!virtio) return virtio.error().with_context(fmt::format("--virtio-console {}", text));
    auto console = parse_console(rest);
    if (!console) return console.error().with_context("--virtio-console");
    config.ports_virtio = *virtio;
    config.virtio_console = *console;
    return {};
}

base::Result<StatsMode> parse_stats(std::string_view text)
{
    if (text.empty() || text == "text") return StatsMode::text;
    if (text == "json") return StatsMode::json;
    return base::usage_error(fmt::format("--stats={}: not a format; use --stats or --stats=json", text));
}

std::uint64_t host_memory_bytes()
{
    struct sysinfo info {};
    if (::sysinfo(&info) != 0) return 0;
    return (std::uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
}

base::Result<void> validate(const VmConfig& config, std::uint64_t host_memory)
{
    if (config.kernel.empty()) {
        return base::usage_error("--kernel: missing; name a bzImage, a PVH ELF or a multiboot image");
    }
    if (config.memory_bytes < minimum_memory) {
        return base::usage_error(fmt::format(
            "--memory: {} bytes are too few for a PC; give at least {}", config.memory_bytes,
            mebibytes(minimum_memory)));
    }
    if (config.memory_bytes % page_size != 0) {
        return base::usage_error(fmt::format(
            "--memory: {} bytes are not whole 4 KiB pages; use a multiple of 4K", config.memory_bytes));
    }
    if (host_memory != 0 && config.memory_bytes > host_memory) {
        return base::usage_error(fmt::format(
            "--memory: {} is more than this host's RAM and swap ({}); give less",
            mebibytes(config.memory_bytes), mebibytes(host_memory)));
    }
    if (config.cpus > most_cpus) {
        return base::usage_error(
            fmt::format("--cpus {}: {} at most", config.cpus, most_cpus));
    }
    if (config.cpus > 1 && (!config.next_engines.empty() || config.lock_step != 0)) {
        return base::usage_error(fmt::format(
            "--cpus {}: engines take turns and check each other with one CPU only; use --cpus 1",
            config.cpus));
    }
    if (config.balloon && config.balloon->bytes > config.memory_bytes) {
        return base::usage_error(fmt::format("--balloon: {} is more than the guest's memory ({})",
                                             mebibytes(config.balloon->bytes),
                                             mebibytes(config.memory_bytes)));
    }
    if (config.ports.size() > most_ports) {
        return base::usage_error(fmt::format("--port: {} ports are given; there is room for {}",
                                             config.ports.size(), most_ports));
    }
    unsigned on_stdio = config.console.kind == ConsoleKind::stdio ? 1 : 0;
    if (config.virtio_console && config.virtio_console->kind == ConsoleKind::stdio) ++on_stdio;
    for (const PortSpec& port : config.ports) {
        if (port.console.kind == ConsoleKind::stdio) ++on_stdio;
    }
    if (on_stdio > 1) {
        return base::usage_error("--console, --virtio-console and --port: only one of them can be "
                                 "stdio; give --console none or a file to the serial port");
    }
    if (config.pmems.size() > most_pmems) {
        return base::usage_error(fmt::format("--pmem: {} files are given; there is room for {}",
                                             config.pmems.size(), most_pmems));
    }
    if (config.nets.size() > most_nets) {
        return base::usage_error(fmt::format("--net: {} network cards are given; there is room "
                                             "for {}", config.nets.size(), most_nets));
    }
    if (config.file_systems.size() > most_file_systems) {
        return base::usage_error(fmt::format("--share, --fs: {} file systems; there are slots for "
                                             "{}", config.file_systems.size(), most_file_systems));
    }
    if (config.disks.size() > most_disks) {
        return base::usage_error(fmt::format("--disk: {} disks are given; there is room for {}",
                                             config.disks.size(), most_disks));
    }
    TRY(validate_scsi(config));
    TRY(validate_lock_step(config));
    return validate_switches(config);
}

}  // namespace doppel::vm
