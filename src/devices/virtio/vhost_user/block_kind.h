// A disk of a vhost-user back end, such as qemu-storage-daemon. Virtio 1.2, section 5.2.
#pragma once

#include <array>

#include "devices/virtio/block/registers.h"
#include "devices/virtio/vhost_user/kind.h"

namespace doppel::devices::virtio {

class VhostUserBlock final : public VhostUserKind {
public:
    static constexpr unsigned most_queues = 16;
    explicit VhostUserBlock(unsigned queues);

    [[nodiscard]] const Identity& identity() const override { return identity_; }
    [[nodiscard]] Features passed_on() const override;
    [[nodiscard]] std::size_t backend_config_bytes() const override { return sizeof config_; }
    void take_config(std::span<const std::byte> config) override;
    [[nodiscard]] std::span<const std::byte> config() const override
    {
        return std::as_bytes(std::span{&config_, 1});
    }
    // Those without header or status, which back ends forget about instead of finishing them.
    [[nodiscard]] std::optional<std::uint32_t> answer(const Dma& dma, const Chain& chain) override;
    [[nodiscard]] std::uint32_t refuse(const Dma& dma, const Chain& chain) override;

private:
    static constexpr std::uint16_t queue_size = 256;
    std::array<std::uint16_t, most_queues> queue_sizes_;
    Identity identity_;
    BlockConfig config_{};
};

}  // namespace doppel::devices::virtio
