// A network card of a vhost-user back end, such as a switch in user space. Virtio 1.2, section 5.1.
// One pair of queues; address and MTU are ours to tell, checksums and segments the back end's.
#pragma once

#include <array>
#include <optional>

#include "devices/virtio/net/registers.h"
#include "devices/virtio/vhost_user/kind.h"

namespace doppel::devices::virtio {

class VhostUserNet final : public VhostUserKind {
public:
    VhostUserNet(const std::array<std::uint8_t, 6>& mac, std::optional<std::uint16_t> mtu);

    [[nodiscard]] const Identity& identity() const override;
    [[nodiscard]] Features passed_on() const override;
    [[nodiscard]] Features own_features() const override;
    [[nodiscard]] std::span<const std::byte> config() const override
    {
        return std::as_bytes(std::span{&config_, 1});
    }
    // Buffers for what may come from the network wait for as long as nothing comes.
    [[nodiscard]] bool ends_by_itself(unsigned queue) const override { return queue != 0; }
    // A frame of no bytes, which the driver drops.
    [[nodiscard]] std::uint32_t refuse(const Dma&, const Chain&) override { return 0; }

private:
    NetConfig config_{};
};

}  // namespace doppel::devices::virtio
