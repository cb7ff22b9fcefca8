// A file system of a vhost-user back end, such as virtiofsd. Virtio 1.2, section 5.11.
//
// What travels is FUSE. A back end knows open files and inodes by numbers that it gave out, so a new
// one knows none of them, and the same number may mean another file. Between the end of a back end
// and the next FUSE_INIT every request is answered here with ENOTCONN, as Linux answers for a FUSE file
// system whose server is gone: the share can be unmounted, and mounted again.
#pragma once

#include <array>
#include <string_view>

#include "devices/virtio/vhost_user/kind.h"

namespace doppel::devices::virtio {

class VhostUserFs final : public VhostUserKind {
public:
    static constexpr std::size_t most_tag_bytes = 36;
    // tag: 1 to most_tag_bytes, what the guest mounts it by.
    explicit VhostUserFs(std::string_view tag);

    [[nodiscard]] const Identity& identity() const override;
    [[nodiscard]] Features passed_on() const override { return 0; }
    [[nodiscard]] std::span<const std::byte> config() const override
    {
        return std::as_bytes(std::span{&config_, 1});
    }
    [[nodiscard]] std::optional<std::uint32_t> answer(const Dma& dma, const Chain& chain) override;
    void forgotten() override { in_session_ = false; }
    [[nodiscard]] std::uint32_t refuse(const Dma& dma, const Chain& chain) override;

private:
    struct Config {
        std::array<char, most_tag_bytes> tag;
        std::uint32_t num_request_queues;
    };
    static_assert(sizeof(Config) == 40);

    Config config_{};
    bool in_session_ = false;
};

}  // namespace doppel::devices::virtio
