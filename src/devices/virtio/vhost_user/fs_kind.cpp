#include "devices/virtio/vhost_user/fs_kind.h"

#include <cerrno>

#include "base/assert.h"

namespace doppel::devices::virtio {

namespace {

// FUSE as Linux has it, include/uapi/linux/fuse.h.
struct FuseRequest {
    std::uint32_t size, opcode;
    std::uint64_t unique, node;
    std::uint32_t user, group, process;
    std::uint16_t extensions, padding;
};
static_assert(sizeof(FuseRequest) == 40);
struct FuseReply {
    std::uint32_t size;
    std::int32_t error;
    std::uint64_t unique;
};
static_assert(sizeof(FuseReply) == 16);

enum Opcode : std::uint32_t { FUSE_INIT = 26, FUSE_DESTROY = 38 };

// How many bytes there was room for: none for requests that have no reply.
std::uint32_t reply(const Dma& dma, const Chain& chain, int error)
{
    FuseRequest request{};
    const bool whole = ChainReader{chain}.read_value(request);
    if (chain.writable_size() < sizeof(FuseReply)) return 0;
    const FuseReply answer{sizeof answer, -error, whole ? request.unique : 0};
    ChainWriter writer{dma, chain};
    writer.write(std::as_bytes(std::span{&answer, 1}));
    return writer.written();
}

}  // namespace

VhostUserFs::VhostUserFs(std::string_view tag)
{
    ASSERT(!tag.empty() && tag.size() <= most_tag_bytes);
    tag.copy(config_.tag.data(), tag.size());
    config_.num_request_queues = 1;
}

const Identity& VhostUserFs::identity() const
{
    // One for what cannot wait, one for requests: of a megabyte, with a descriptor a page.
    static constexpr std::array<std::uint16_t, 2> queues{512, 512};
    static constexpr Identity identity{DeviceId::file_system, "vhost_user_fs", 0x018000, queues};
    return identity;
}

std::optional<std::uint32_t> VhostUserFs::answer(const Dma& dma, const Chain& chain)
{
    FuseRequest request{};
    const bool whole = ChainReader{chain}.read_value(request);
    if (in_session_) return whole ? std::nullopt : std::optional{refuse(dma, chain)};
    if (whole && request.opcode == FUSE_INIT) {
        in_session_ = true;
        return std::nullopt;
    }
    return reply(dma, chain, whole && request.opcode == FUSE_DESTROY ? 0 : ENOTCONN);
}

std::uint32_t VhostUserFs::refuse(const Dma& dma, const Chain& chain)
{
    return reply(dma, chain, EIO);
}

}  // namespace doppel::devices::virtio
