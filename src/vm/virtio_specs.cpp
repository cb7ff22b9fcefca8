#include "vm/virtio_specs.h"

#include "devices/virtio/rng/rng.h"

namespace doppel::vm {

namespace {

namespace virtio = devices::virtio;

// Slots of the root bus; 0 is the host bridge.
constexpr unsigned rng_slot = 1;

}  // namespace

std::vector<machine::VirtioSpec> virtio_specs(const VmConfig& config)
{
    std::vector<machine::VirtioSpec> specs;
    if (config.rng) {
        machine::VirtioSpec& spec = specs.emplace_back();
        spec.name = "rng";
        spec.slot = rng_slot;
        spec.make = [](base::EventLoop&) -> base::Result<std::unique_ptr<virtio::Device>> {
            return std::unique_ptr<virtio::Device>{std::make_unique<virtio::Rng>()};
        };
    }
    return specs;
}

}  // namespace doppel::vm
