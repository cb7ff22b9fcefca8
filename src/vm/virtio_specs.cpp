#include "vm/virtio_specs.h"

#include <fmt/format.h>

#include "backends/vsock/unix_vsock.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/block/block.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/pmem/pmem.h"
#include "devices/virtio/rng/rng.h"
#include "devices/virtio/scsi/scsi.h"
#include "devices/virtio/vsock/vsock.h"
#include "machine/memory_map.h"
#include "vm/vhost_user_devices.h"

namespace doppel::vm {

namespace {

namespace virtio = devices::virtio;
using DevicePointer = std::unique_ptr<virtio::Device>;

// Slots of the root bus; 0 is the host bridge.
constexpr unsigned rng_slot = 1, balloon_slot = 2, console_slot = 3, vsock_slot = 4,
                   scsi_slot = 5, first_pmem_slot = 6, first_disk_slot = 8,
                   first_net_slot = first_disk_slot + most_disks,
                   first_fs_slot = first_net_slot + most_nets;

machine::VirtioSpec& add(std::vector<machine::VirtioSpec>& specs, std::string name, unsigned slot,
                         const VirtioOptions& options)
{
    machine::VirtioSpec& spec = specs.emplace_back();
    spec.name = std::move(name);
    spec.slot = slot;
    spec.legacy = options.legacy;
    if (options.transport == VirtioOptions::Transport::mmio) {
        spec.transport = machine::VirtioSpec::Transport::mmio;
    }
    spec.offered &= ~options.without;
    if (options.access_platform) spec.offered |= virtio::VIRTIO_F_ACCESS_PLATFORM;
    return spec;
}

base::Result<DevicePointer> make_rng(base::EventLoop&)
{
    return DevicePointer{std::make_unique<virtio::Rng>()};
}

base::Result<DevicePointer> make_disk(const backends::DiskOptions& options, base::EventLoop& loop)
{
    auto backend = backends::open_block(options.block, loop);
    if (!backend) return backend.error().with_context("--disk");
    return DevicePointer{std::make_unique<virtio::Block>(
        std::move(backend).value(), virtio::Block::Options{options.serial, options.queues})};
}

base::Result<DevicePointer> make_scsi(const std::vector<DiskSpec>& specs, base::EventLoop& loop)
{
    std::vector<virtio::Scsi::Disk> disks;
    for (const DiskSpec& spec : specs) {
        auto backend = backends::open_block(spec.disk.block, loop);
        if (!backend) return backend.error().with_context("--scsi-disk");
        const std::string serial =
            spec.disk.serial.empty() ? fmt::format("target{}", disks.size()) : spec.disk.serial;
        disks.push_back({std::move(backend).value(), serial});
    }
    return DevicePointer{std::make_unique<virtio::Scsi>(std::move(disks))};
}

base::Result<DevicePointer> make_pmem(const PmemSpec& spec, const virtio::PmemConfig& place,
                                      base::EventLoop& loop)
{
    backends::BlockOptions options;
    options.path = spec.path;
    options.format = backends::ImageFormat::raw;
    options.read_only = spec.read_only;
    auto file = backends::open_block(options, loop);
    if (!file) return file.error().with_context("--pmem");
    return DevicePointer{std::make_unique<virtio::Pmem>(std::move(file).value(), place)};
}

base::Result<DevicePointer> make_net(const backends::NetOptions& options, unsigned number,
                                     base::EventLoop& loop)
{
    auto backend = TRY(backends::open_net(options, loop));
    const backends::MacAddress mac = options.mac.value_or(backends::default_mac(options, number));
    return DevicePointer{
        std::make_unique<virtio::Net>(std::move(backend), virtio::Net::Options{mac})};
}

base::Result<DevicePointer> make_vsock(const VsockSpec& spec, base::EventLoop& loop)
{
    return DevicePointer{std::make_unique<virtio::Vsock>(
        TRY(backends::UnixVsock::create(loop, spec.path)), spec.cid, loop)};
}

}  // namespace

base::Result<DevicePointer> make_balloon(const BalloonSpec& spec, base::EventLoop& loop)
{
    const auto pages = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(spec.bytes / base::page_size, 0xffffffff));
    return DevicePointer{
        TRY(virtio::Balloon::create({pages, spec.deflate_on_oom, spec.reporting}, loop))};
}

// Port 0 is the console; other ports have names.
base::Result<DevicePointer> make_console(const std::optional<ConsoleSpec>& console,
                                         const std::vector<PortSpec>& ports,
                                         const backends::ConsoleEvents& events,
                                         base::EventLoop& loop)
{
    std::vector<virtio::Console::Port> made(1);
    if (console) {
        auto backend = backends::create_character_backend(console_text(*console), loop, events);
        if (!backend) return backend.error().with_context("--virtio-console");
        made[0] = {"", true, std::move(backend).value()};
    }
    for (const PortSpec& port : ports) {
        auto backend =
            backends::create_character_backend(console_text(port.console), loop, events);
        if (!backend) return backend.error().with_context("--port " + port.name);
        made.push_back({port.name, false, std::move(backend).value()});
    }
    return DevicePointer{std::make_unique<virtio::Console>(std::move(made))};
}

std::vector<machine::VirtioSpec> virtio_specs(const VmConfig& config,
                                              const backends::ConsoleEvents& console,
                                              std::span<const std::uint64_t> file_sizes)
{
    std::vector<machine::VirtioSpec> specs;
    if (config.rng.present) add(specs, "rng", rng_slot, config.rng.virtio).make = make_rng;
    if (config.balloon) {
        add(specs, "balloon", balloon_slot, config.balloon->virtio).make =
            [spec = *config.balloon](base::EventLoop& loop) { return make_balloon(spec, loop); };
    }
    if (config.virtio_console || !config.ports.empty()) {
        add(specs, "console", console_slot, config.ports_virtio).make =
            [first = config.virtio_console, ports = config.ports, console](base::EventLoop& loop) {
                return make_console(first, ports, console, loop);
            };
    }
    if (config.vsock) {
        add(specs, "vsock", vsock_slot, config.vsock->virtio).make =
            [spec = *config.vsock](base::EventLoop& loop) { return make_vsock(spec, loop); };
    }
    if (!config.scsi_disks.empty()) {
        add(specs, "scsi", scsi_slot, config.scsi_disks[0].virtio).make =
            [disks = config.scsi_disks](base::EventLoop& loop) { return make_scsi(disks, loop); };
    }
    const auto places = machine::file_places(config.memory_bytes, file_sizes);
    for (unsigned i = 0; i < file_sizes.size(); ++i) {
        const PmemSpec& pmem = config.pmems[i];
        add(specs, fmt::format("pmem{}", i), first_pmem_slot + i, pmem.virtio).make =
            [pmem, place = virtio::PmemConfig{places[i], file_sizes[i]}](base::EventLoop& loop) {
                return make_pmem(pmem, place, loop);
            };
    }
    for (unsigned i = 0; i < config.disks.size(); ++i) {
        const DiskSpec& disk = config.disks[i];
        auto& spec = add(specs, fmt::format("disk{}", i), first_disk_slot + i, disk.virtio);
        if (disk.vhost_user) {
            spec.make = vhost_user_disk(*disk.vhost_user);
            continue;
        }
        spec.make = [options = disk.disk](base::EventLoop& loop) {
            return make_disk(options, loop);
        };
    }
    for (unsigned i = 0; i < config.nets.size(); ++i) {
        const NetSpec& net = config.nets[i];
        auto& spec = add(specs, fmt::format("net{}", i), first_net_slot + i, net.virtio);
        if (std::holds_alternative<backends::VhostUserLink>(net.net.link)) {
            spec.make = vhost_user_net(net.net, i);
            continue;
        }
        spec.make = [options = net.net, i](base::EventLoop& loop) {
            return make_net(options, i, loop);
        };
    }
    for (unsigned i = 0; i < config.file_systems.size(); ++i) {
        const FsSpec& fs = config.file_systems[i];
        add(specs, fmt::format("fs{}", i), first_fs_slot + i, fs.virtio).make =
            vhost_user_fs(fs);
    }
    return specs;
}

}  // namespace doppel::vm
