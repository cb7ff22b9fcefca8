// What makes a vhost-user device a disk, a network card or a file system: everything that is not
// the same for all of them.
#pragma once

#include <optional>

#include "devices/virtio/device.h"
#include "devices/virtio/queue/chain.h"

namespace doppel::devices::virtio {

// Threads: the device's.
class VhostUserKind {
public:
    virtual ~VhostUserKind() = default;
    [[nodiscard]] virtual const Identity& identity() const = 0;
    // Of the back end's features, those that are of use here. Those without rings of our own: the
    // guest's rings are ours.
    [[nodiscard]] virtual Features passed_on() const = 0;
    // What we do for the guest ourselves.
    [[nodiscard]] virtual Features own_features() const { return 0; }

    // Bytes that the back end has of configuration space; it comes by take_config() then, once or
    // after each time that it was gone.
    [[nodiscard]] virtual std::size_t backend_config_bytes() const { return 0; }
    virtual void take_config(std::span<const std::byte> config) { static_cast<void>(config); }
    [[nodiscard]] virtual std::span<const std::byte> config() const = 0;

    // Do requests of this queue end without help from elsewhere?
    [[nodiscard]] virtual bool ends_by_itself(unsigned queue) const
    {
        static_cast<void>(queue);
        return true;
    }
    // A request that is not for the back end: answered, with so many bytes written.
    [[nodiscard]] virtual std::optional<std::uint32_t> answer(const Dma& dma, const Chain& chain)
    {
        static_cast<void>(dma), static_cast<void>(chain);
        return std::nullopt;
    }
    // The back end is gone, or the device was reset: it has forgotten everything.
    virtual void forgotten() {}
    // A request cannot be carried out: what the guest is told, in so many bytes.
    [[nodiscard]] virtual std::uint32_t refuse(const Dma& dma, const Chain& chain) = 0;
};

}  // namespace doppel::devices::virtio
