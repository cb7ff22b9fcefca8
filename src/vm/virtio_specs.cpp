#include "vm/virtio_specs.h"

#include <fmt/format.h>

#include "devices/virtio/block/block.h"
#include "devices/virtio/rng/rng.h"

namespace doppel::vm {

namespace {

namespace virtio = devices::virtio;
using DevicePointer = std::unique_ptr<virtio::Device>;

// Slots of the root bus; 0 is the host bridge.
constexpr unsigned rng_slot = 1, first_disk_slot = 8;

machine::VirtioSpec& add(std::vector<machine::VirtioSpec>& specs, std::string name, unsigned slot,
                         const VirtioOptions& options)
{
    machine::VirtioSpec& spec = specs.emplace_back();
    spec.name = std::move(name);
    spec.slot = slot;
    spec.legacy = options.legacy;
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

}  // namespace

std::vector<machine::VirtioSpec> virtio_specs(const VmConfig& config)
{
    std::vector<machine::VirtioSpec> specs;
    if (config.rng.present) add(specs, "rng", rng_slot, config.rng.virtio).make = make_rng;
    for (unsigned i = 0; i < config.disks.size(); ++i) {
        const DiskSpec& disk = config.disks[i];
        add(specs, fmt::format("disk{}", i), first_disk_slot + i, disk.virtio).make =
            [options = disk.disk](base::EventLoop& loop) { return make_disk(options, loop); };
    }
    return specs;
}

}  // namespace doppel::vm
