// What the user asked for, and the checks that need nothing but the request and the host.
// Texts of all errors name the command-line option they are about.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/block/disk_options.h"
#include "backends/net/net_options.h"
#include "base/result.h"
#include "engine/engine.h"
#include "vm/vhost_user_options.h"
#include "vm/virtio_options.h"

namespace doppel::vm {

enum class ConsoleKind { stdio, none, file, socket };

// The first serial port: --console stdio|none|file:PATH|socket:PATH.
struct ConsoleSpec {
    ConsoleKind kind = ConsoleKind::stdio;
    std::string path;  // file: truncated and written; socket: Unix stream socket, listens
    bool operator==(const ConsoleSpec&) const = default;
};

// --disk FILE[,key=value...]: virtio-block. Or --disk vhost-user:SOCKET[,queues=N].
struct DiskSpec {
    backends::DiskOptions disk;
    std::optional<VhostUserDisk> vhost_user;  // instead
    VirtioOptions virtio;
};
inline constexpr unsigned most_disks = 16;

// --scsi-disk FILE[,key=value...]: a disk of the one SCSI host, virtio-scsi. `virtio` is of the
// host: the first disk's, or what all have in common.
inline constexpr unsigned most_scsi_disks = 16;

// --net user|tap|stream:PATH|vhost-user:PATH[,key=value...]: virtio-net.
struct NetSpec {
    backends::NetOptions net;
    VirtioOptions virtio;
};
inline constexpr unsigned most_nets = 6;

// --rng on|off[,key=value...]: virtio-entropy.
struct RngSpec {
    bool present = true;
    VirtioOptions virtio;
};

// --balloon SIZE[,key=value...]: virtio-balloon.
struct BalloonSpec {
    std::uint64_t bytes = 0;  // that the guest shall give up; less than it has
    bool deflate_on_oom = true;
    bool reporting = true;    // the guest reports free pages, which go back to the host
    VirtioOptions virtio;
};

// --pmem FILE[,size=SIZE,readonly,key=value...]: virtio-pmem.
struct PmemSpec {
    std::string path;
    std::optional<std::uint64_t> size;  // bytes; then the file may be a new one
    bool read_only = false;
    VirtioOptions virtio;
};
inline constexpr unsigned most_pmems = 2;

// --vsock PATH[,cid=N,key=value...]: virtio-vsock, over Unix sockets.
struct VsockSpec {
    std::string path;
    std::uint32_t cid = 3;  // the guest's
    VirtioOptions virtio;
};

// --port NAME=WHERE: virtio-console port, WHERE as for --console.
struct PortSpec {
    std::string name;
    ConsoleSpec console;
    bool operator==(const PortSpec&) const = default;
};
inline constexpr unsigned most_ports = 29;
inline constexpr unsigned most_cpus = 64;

enum class StatsMode { off, text, json };

struct VmConfig {
    // nullopt is "auto": the command line resolves it before Vm::create(), since saying
    // which engine was picked and why is its business.
    std::optional<engine::EngineKind> engine;
    // The guest changes engine while it runs: the engines after the first, round and round.
    std::vector<engine::EngineKind> next_engines;
    // The i-th engine that has the guest since the start has it for so many instructions; those
    // without a number, until SIGUSR2.
    std::vector<std::uint64_t> switch_at;
    std::uint64_t memory_bytes = std::uint64_t{512} << 20;
    unsigned cpus = 1;  // at most most_cpus, and what the engine runs
    std::string kernel;   // path, required
    std::string initrd;   // path, empty: none
    std::string cmdline;  // may be empty
    // EngineConfig::lock_step, of translate.
    std::uint64_t lock_step = 0;
    ConsoleSpec console;
    std::optional<std::uint16_t> debug_exit_port;
    std::vector<DiskSpec> disks;  // of one transport, in this order: vda, vdb, ...
    std::vector<DiskSpec> scsi_disks;  // in this order: targets 0, 1, ...
    std::vector<NetSpec> nets;    // of one transport, in this order: eth0, eth1, ...
    std::vector<FsSpec> file_systems;
    RngSpec rng;
    std::optional<BalloonSpec> balloon;
    std::optional<VsockSpec> vsock;
    std::vector<PmemSpec> pmems;  // in this order: pmem0, pmem1
    // --virtio-console WHERE[,key=value...]: hvc0; its keys are for the ports, too.
    std::optional<ConsoleSpec> virtio_console;
    std::vector<PortSpec> ports;
    VirtioOptions ports_virtio;
    bool no_reboot = false;  // a guest that resets the machine has powered it off
    StatsMode stats = StatsMode::off;
};

// "auto" gives nullopt inside the result.
base::Result<std::optional<engine::EngineKind>> parse_engine(std::string_view text);
// --engine A[,B...]: as parse_engine() for one; several may not be auto.
struct EngineList {
    std::optional<engine::EngineKind> first;
    std::vector<engine::EngineKind> next;
};
base::Result<EngineList> parse_engines(std::string_view text);
// --switch-at N[,M...]: none may be 0.
base::Result<std::vector<std::uint64_t>> parse_switch_at(std::string_view text);
// --lock-step[=N]: a number, not 0.
base::Result<std::uint64_t> parse_lock_step(std::string_view text);
// Bytes: a number with an optional K, M, G or T suffix (either case, powers of 1024);
// `option` goes into the error text, for example "--memory".
base::Result<std::uint64_t> parse_size(std::string_view option, std::string_view text);
base::Result<unsigned> parse_cpus(std::string_view text);
base::Result<ConsoleSpec> parse_console(std::string_view text);
// Decimal or 0x hexadecimal, 0-0xffff.
base::Result<std::uint16_t> parse_debug_exit(std::string_view text);
base::Result<DiskSpec> parse_disk(std::string_view text);
base::Result<DiskSpec> parse_scsi_disk(std::string_view text);
base::Result<NetSpec> parse_net(std::string_view text);
base::Result<RngSpec> parse_rng(std::string_view text);
base::Result<BalloonSpec> parse_balloon(std::string_view text);
base::Result<PmemSpec> parse_pmem(std::string_view text);
base::Result<VsockSpec> parse_vsock(std::string_view text);
base::Result<PortSpec> parse_port(std::string_view text);
// Sets virtio_console and ports_virtio.
base::Result<void> parse_virtio_console(std::string_view text, VmConfig& config);
// As the backend is asked for it: "file:PATH".
std::string console_text(const ConsoleSpec& spec);
// "", "text" or "json".
base::Result<StatsMode> parse_stats(std::string_view text);

// RAM and swap of this host in bytes; 0 when it cannot be told.
std::uint64_t host_memory_bytes();

// Memory size, number of CPUs, presence of a kernel, changes of engine. host_memory 0 skips the
// upper bound.
base::Result<void> validate(const VmConfig& config, std::uint64_t host_memory);

}  // namespace doppel::vm
